"""How the page shows quality beside llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from et_pipeline.report.comparison import figures
from et_pipeline.report.tables import markdown
from et_pipeline.report.words import size, within

if TYPE_CHECKING:
    from et_pipeline.report.comparison import Comparison


def tables(models: Mapping[str, Any]) -> str:
    """All that was measured, in Markdown."""
    parts = []
    for name, model in models.items():
        versions = ", ".join(f"{name} {version}" for name, version in model["versions"].items())
        parts += [
            f"### {name}\n",
            f"{model['parameters']:,} weights, {model['tokens']:,} tokens scored, on which the original in fp32 has "
            f"perplexity {model['original']:.3f}.\n",
            _table(model) + "\n",
            f"Measured {model['date']} on {model['machine']} with `{model['command']}`. {versions}.\n",
        ]
    return "\n".join(parts)


def comparison_figures(comparison: Comparison) -> dict[str, Any]:
    """What a page shows of a sweep over recipes, by the model's name."""
    rows = []
    for each in comparison.measured:
        assert each.manifest is not None
        found, agreement = figures(each), each.manifest.quality.agreement
        assert agreement is not None
        ways = (agreement.quantized.one_piece, agreement.quantized.chunked, agreement.quantized.token_by_token)
        rows.append(
            {
                "recipe": each.name,
                "bytes": found.size,
                "perplexity": found.perplexity,
                "kl": found.kl,
                "top1": found.top1,
                "accuracy": found.accuracy,
                "quantized_cosine": min(way.cosine for way in ways),
                "failed": found.failed,
            }
        )
    manifest = comparison.measured[0].manifest
    assert manifest is not None
    quality = manifest.quality
    original = quality.text.original if quality.text else quality.perplexity.original if quality.perplexity else None
    name = str(manifest.what.settings["model"]["name"])
    about = {"date": comparison.date, "machine": comparison.machine, "overrides": comparison.overrides}
    return {name: {**about, "original": original, "tokens": quality.text and quality.text.tokens, "rows": rows}}


def compared(models: Mapping[str, Any]) -> str:
    """The figures of sweeps over recipes, in Markdown."""
    parts = []
    for name, model in models.items():
        rows = [["recipe", "size", "perplexity", "change", "KL", "top-1", "task accuracy", "quantized: cosine"]]
        for each in model["rows"]:
            accuracy = each["accuracy"]
            rows.append(
                [
                    f"`{each['recipe']}`" + (" (gate failed)" if each["failed"] else ""),
                    size(each["bytes"]),
                    f"{each['perplexity']:.3f}" if each["perplexity"] else "",
                    f"{100 * (each['perplexity'] / model['original'] - 1):+.2f} %" if each["perplexity"] else "",
                    f"{each['kl']:.4f}",
                    f"{100 * each['top1']:.2f} %",
                    f"{accuracy[0]:.1f} % ({accuracy[1]:+.1f})" if accuracy else "",
                    f"{each['quantized_cosine']:.6f}",
                ]
            )
        text = f"{model['tokens']:,} tokens of held-out text" if model["tokens"] else "the built-in conversations"
        parts += [f"#### {name}, on {text}\n", markdown(rows) + "\n"]
        with_set = f' SET="{" ".join(model["overrides"])}"' if model["overrides"] else ""
        parts.append(f"Measured {model['date']} on {model['machine']} with `make compare{with_set}`.\n")
    return "\n".join(parts)


def _table(model: Mapping[str, Any]) -> str:
    rows = [
        [
            "program",
            "file",
            "bits per weight",
            "KL",
            "perplexity",
            "of the original's",
            "top-1",
            "prefill",
            "decode",
            "types, by share of weights",
        ]
    ]
    for each in model["rows"]:
        types = each.get("types", {}).items()
        speeds = (each.get("prefill"), each.get("decode"))
        rows.append(
            [
                each["name"],
                size(each["file_bytes"]),
                f"{each['bits_per_weight']:.2f}",
                f"{max(0.0, each['kl']):.4f}{within(each.get('kl_interval'))}",
                f"{each['perplexity']:.3f}",
                f"{each['perplexity'] / model['original']:.4f}{within(each.get('ratio_interval'))}",
                f"{100 * each['top1']:.2f} %",
                *("" if speed is None else f"{speed:,.0f}" for speed in speeds),
                ", ".join(f"{name} {100 * share:.0f} %" for name, share in types if share >= 0.005),
            ]
        )
    return markdown(rows)
