"""The page of `make compare`: one HTML file, its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from et_pipeline.report import bundles_page
from et_pipeline.report.compare_pictures import pictures
from et_pipeline.report.comparison import Comparison, Outcome, best, figures, method, recipe
from et_pipeline.report.page import render, write_whole
from et_pipeline.report.words import size, within


def write(comparison: Comparison, out: Path) -> Path:
    """Write `compare.json`, the pictures, the pages of bundles and, last, of recipes, each whole or not at all.

    Returns:
        The page of recipes.
    """
    images = pictures(comparison)
    files = {"compare.json": comparison.model_dump_json(indent=1).encode() + b"\n", **images}
    bundles = {each.name: each.manifest for each in comparison.measured if each.manifest is not None}
    files["bundles.html"] = bundles_page.page(f"{comparison.model}: recipes", bundles).encode()
    files["report.html"] = page(comparison, images).encode()
    write_whole({out / name: content for name, content in files.items()})
    return out / "report.html"


def page(comparison: Comparison, images: Mapping[str, bytes]) -> str:
    """The report as one HTML file that refers to no other.

    Args:
        comparison: what was found.
        images: of `pictures`.
    """
    chosen = set(best(comparison))
    rows = []
    for each in comparison.measured:
        found = figures(each)
        assert each.manifest is not None
        rows.append(
            {
                "name": each.name,
                "front": each.name in chosen,
                "method": method(each),
                "size": size(found.size),
                "bits": f"{8 * found.size / each.manifest.what.parameters:.2f}",
                "perplexity": "–" if found.perplexity is None else f"{found.perplexity:.3f}",
                "kl": f"{max(0.0, found.kl):.4f}{within(found.kl_interval)}",
                "top1": f"{100 * found.top1:.2f} %",
                "accuracy": "–" if found.accuracy is None else f"{found.accuracy[0]:.1f} % ({found.accuracy[1]:+.1f})",
                "prefill": "–" if found.prefill is None else f"{found.prefill:,.0f}",
                "decode": "–" if found.decode is None else f"{found.decode:,.0f}",
                "failed": found.failed,
            }
        )
    refused: dict[str, list[str]] = {}
    for each in comparison.outcomes:
        if each.refused is not None:
            refused.setdefault(each.refused, []).append(each.name)
    return render(
        "compare.html",
        comparison=comparison,
        rows=rows,
        refused=refused,
        original=_original(comparison),
        without_weights=[
            each.name for each in comparison.measured if not each.weight_errors and recipe(each)["scheme"] != "fp32"
        ],
        answers=_answers(comparison.measured),
        images={name: base64.b64encode(content).decode() for name, content in images.items()},
    )


def _original(comparison: Comparison) -> str:
    """What figures were measured on, and the original's perplexity on it."""
    for each in comparison.measured:
        assert each.manifest is not None
        quality = each.manifest.quality
        if quality.text is not None:
            text = quality.text
            return (
                f"on {text.source} ({text.tokens:,} tokens, window {text.window}, stride {text.stride}), where the "
                f"original model has a perplexity of {text.original:.3f}"
            )
        if quality.perplexity is not None:
            return (
                "on the original model's own answers, of which it has a perplexity "
                f"of {quality.perplexity.original:.3f}"
            )
    return "on the original model's own answers"


def _answers(measured: Sequence[Outcome]) -> list[dict[str, Any]]:
    """By prompt: every answer once, that of the largest program first, and the recipes that gave it."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for each in reversed(measured):
        assert each.manifest is not None
        for sample in each.manifest.samples:
            answers = found.setdefault((sample.task, sample.prompt), {})
            answers.setdefault(sample.answer, []).append(each.name)
    return [{"task": task, "prompt": prompt, "answers": answers} for (task, prompt), answers in found.items()]
