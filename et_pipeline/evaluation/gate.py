"""The gate: figures against the recipe's thresholds. The verdict is part of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from et_pipeline import manifest
from et_pipeline.settings import Gate


def judge(figures: Mapping[str, Any], gate: Gate) -> manifest.Gate:
    """Apply a recipe's thresholds to what `verify` measured.

    A program with activations quantized at run time need not agree with the quantized eager model better than that
    agrees with itself, its inputs changed in the last bit: where twice that distance is more than the recipe's
    threshold allows, it is the threshold.

    Args:
        figures: `verify`'s figures: agreement with the `quantized` and the `original` eager model per way of feeding,
            agreement of the quantized eager model with itself in `rounding`, that at the end of a long text in `long`,
            how far our reading of the original is from the `witness`, and accuracy in points per task in `tasks`.
        gate: the thresholds.
    """
    checks = []

    def at_least(name: str, value: float, threshold: float) -> None:
        checks.append(manifest.Check(name=name, value=value, threshold=threshold, passed=value >= threshold))

    def at_most(name: str, value: float, threshold: float) -> None:
        checks.append(manifest.Check(name=name, value=value, threshold=threshold, passed=value <= threshold))

    checks.extend(witness_checks(figures["witness"]))
    rounding = figures["rounding"] or {"cosine": 1.0, "top1": 1.0}
    min_cosine = min(gate.min_cosine_quantized, 1 - 2 * (1 - rounding["cosine"]))
    min_top1 = min(gate.min_top1_quantized, 1 - 2 * (1 - rounding["top1"]))
    for way, agreement in figures["quantized"].items():
        at_least(f"cosine to quantized eager, {way}", agreement["cosine"], min_cosine)
        at_least(f"top-1 with quantized eager, {way}", agreement["top1"], min_top1)
    if figures["long"] is not None:
        at_least("cosine to quantized eager, end of a long text", figures["long"]["cosine"], min_cosine)
    for way, agreement in figures["original"].items():
        at_least(f"top-1 with original, {way}", agreement["top1"], gate.min_top1_original)
        at_most(f"KL to original, {way}", agreement["kl"], gate.max_kl_original)
    if not figures["original"]:  # the program could not be executed: what can be said is said of the eager model
        at_least("top-1 of quantized eager with original", figures["eager"]["top1"], gate.min_top1_original)
        at_most("KL of quantized eager to original", figures["eager"]["kl"], gate.max_kl_original)
    for task, score in figures["tasks"].items():
        at_most(f"accuracy drop in points, {task}", score["original"] - score["deployed"], gate.max_task_drop)
    return manifest.Gate(thresholds=gate.model_dump(), checks=checks, passed=all(check.passed for check in checks))


def witness_checks(figures: Mapping[str, Any]) -> list[manifest.Check]:
    """Whether the original was read as it is meant (see `evaluation.reading`); nothing where there is no witness."""
    if figures["difference"] is None:
        return []
    name = f"difference of our reading of the original from {figures['name']}"
    value, threshold = figures["difference"], figures["allowed"]
    return [manifest.Check(name=name, value=value, threshold=threshold, passed=value <= threshold)]


def witness(figures: Mapping[str, Any]) -> manifest.Witness:
    """Whose code the original's figures come from, for the manifest."""
    shown = {name: value for name, value in figures.items() if name not in ("difference", "allowed")}
    return manifest.Witness.model_validate(shown)
