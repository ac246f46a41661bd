"""The gate: figures against the recipe's thresholds. The verdict is part of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from et_pipeline import manifest
from et_pipeline.settings import Gate


def judge(figures: Mapping[str, Any], gate: Gate) -> manifest.Gate:
    """Apply a recipe's thresholds to what `verify` measured.

    Args:
        figures: `verify`'s figures: agreement with the `quantized` and the `original` eager model per way of feeding,
            and accuracy in points per task in `tasks`.
        gate: the thresholds.
    """
    checks = []

    def at_least(name: str, value: float, threshold: float) -> None:
        checks.append(manifest.Check(name=name, value=value, threshold=threshold, passed=value >= threshold))

    def at_most(name: str, value: float, threshold: float) -> None:
        checks.append(manifest.Check(name=name, value=value, threshold=threshold, passed=value <= threshold))

    for way, agreement in figures["quantized"].items():
        at_least(f"cosine to quantized eager, {way}", agreement["cosine"], gate.min_cosine_quantized)
        at_least(f"top-1 with quantized eager, {way}", agreement["top1"], gate.min_top1_quantized)
    for way, agreement in figures["original"].items():
        at_least(f"top-1 with original, {way}", agreement["top1"], gate.min_top1_original)
        at_most(f"KL to original, {way}", agreement["kl"], gate.max_kl_original)
    for task, score in figures["tasks"].items():
        at_most(f"accuracy drop in points, {task}", score["original"] - score["deployed"], gate.max_task_drop)
    return manifest.Gate(thresholds=gate.model_dump(), checks=checks, passed=all(check.passed for check in checks))
