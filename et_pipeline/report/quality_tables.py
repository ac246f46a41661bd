"""How the page shows quality beside llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from et_pipeline.report.tables import markdown, size


def tables(result: Mapping[str, Any]) -> str:
    """All that was measured, in Markdown."""
    parts = []
    for model in result["models"]:
        exact = model["llama_cpp_fp32"]
        parts.append(f"### {model['model']}\n")
        parts.append(
            f"{model['parameters']:,} weights, {model['tokens']:,} tokens scored. The original in fp32 has perplexity "
            f"{model['original']:.3f}; through llama.cpp in fp32 {exact['perplexity']:.3f}, KL {exact['kl']:.6f}, "
            f"cosine {exact['cosine']:.6f}.\n"
        )
        parts.append(_table(model) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(f"Measured {result['date']} on {result['machine']} with `{result['command']}`. {versions}.\n")
    return "\n".join(parts)


def _table(model: Mapping[str, Any]) -> str:
    rows = [["program", "file", "bits per weight", "perplexity", "change", "KL", "top-1", "types, by share of weights"]]
    for each in model["rows"]:
        types = ", ".join(f"{name} {100 * share:.0f} %" for name, share in each["types"].items() if share >= 0.005)
        rows.append(
            [
                each["name"],
                size(each["file_bytes"]),
                f"{each['bits_per_weight']:.2f}",
                f"{each['perplexity']:.3f}",
                f"{100 * (each['perplexity'] / model['original'] - 1):+.2f} %",
                f"{each['kl']:.4f}",
                f"{100 * each['top1']:.2f} %",
                types,
            ]
        )
    return markdown(rows)
