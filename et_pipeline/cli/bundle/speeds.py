"""Measured speed, as a table or as JSON."""

from __future__ import annotations

from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.manifest import EmbeddingSpeed, Speed
from et_pipeline.report.bundle_tables import speed_table


def print_speed(speed: Speed | EmbeddingSpeed, as_json: bool) -> None:
    """Print one measurement."""
    if as_json:
        print_json(speed.model_dump(mode="json"))
    else:
        print_table(*speed_table([speed]))
