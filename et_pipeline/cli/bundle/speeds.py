"""Measured speed, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterable

from et_pipeline.cli.bundle.terminal import Titled, print_json, print_table
from et_pipeline.manifest import EmbeddingSpeed, Percentiles, Speed
from et_pipeline.report.words import size


def print_speed(speed: Speed | EmbeddingSpeed, as_json: bool) -> None:
    """Print one measurement."""
    if as_json:
        print_json(speed.model_dump(mode="json"))
    else:
        print_table(*speed_table([speed]))


def speed_table(speeds: Iterable[Speed | EmbeddingSpeed]) -> Titled:
    """Measurements of one kind."""
    rows = [_cells(speed) for speed in speeds]
    columns = tuple(rows[0]) if rows else ()
    return "Speed: median (10th to 90th percentile)", columns, [tuple(row.values()) for row in rows]


def _cells(speed: Speed | EmbeddingSpeed) -> dict[str, str]:
    if isinstance(speed, EmbeddingSpeed):
        figures = {"text ms": _spread(speed.text_ms), "tokens": str(speed.tokens)}
    else:
        figures = {
            "first token ms": _spread(speed.ttft_ms),
            "prefill tok/s": _spread(speed.prefill_tok_s),
            "decode tok/s": _spread(speed.decode_tok_s),
            "tokens": f"{speed.prompt_tokens} + {speed.decode_tokens}",
        }
    return {
        "where": speed.where,
        "threads": str(speed.threads),
        "load ms": _spread(speed.load_ms),
        **figures,
        "memory": size(speed.program_rss_bytes),
    }


def _spread(figure: Percentiles) -> str:
    return f"{figure.p50:.1f} ({figure.p10:.1f} to {figure.p90:.1f})"
