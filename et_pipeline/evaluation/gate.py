"""The gate: figures against the recipe's thresholds. The verdict is part of the manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from et_pipeline import manifest
from et_pipeline.evaluation.agreement import over_sequences
from et_pipeline.evaluation.verified import Losses, Verified, VerifiedEmbedding, Witnessed, perplexity
from et_pipeline.settings import Gate

_DROP = "accuracy drop in points"


def judge(found: Verified, gate: Gate) -> manifest.Gate:
    """Apply a recipe's thresholds to the figures of a model that answers.

    A program with activations quantized at run time need not agree with the quantized eager model better than that
    agrees with itself, its inputs changed in the last bit: where twice that distance is more than the recipe's
    threshold allows, it is the threshold. A share of tokens is an estimate: it may lie two standard deviations below
    (of 66 tokens at 99 %, two may differ).
    """
    checks = witness_checks(found.witness)
    min_cosine, min_top1 = gate.min_cosine_quantized, gate.min_top1_quantized
    if found.rounding is not None:
        min_cosine = min(min_cosine, 1 - 2 * (1 - found.rounding.cosine))
        min_top1 = min(min_top1, 1 - 2 * (1 - found.rounding.top1))
    if found.agreement is None:  # the program could not be executed: what can be said is said of the eager model
        checks.append(_divergence(over_sequences(found.eager), " of quantized eager", gate))
    else:
        for way, near in found.agreement.quantized:
            checks.append(_at_least(f"cosine to quantized eager, {way}", near.cosine, min_cosine))
            checks.append(_at_least(f"top-1 with quantized eager, {way}", near.top1, _share(min_top1, near.positions)))
        if found.long is not None:
            checks.append(_at_least("cosine to quantized eager, end of a long text", found.long.cosine, min_cosine))
        # Fed in pieces a program tells less, of fewer tokens; that it computes the same then is asked above.
        checks.append(_divergence(found.agreement.original.token_by_token, "", gate))
    if found.perplexity is not None:
        checks.append(_ratio(found.perplexity, gate.max_perplexity_ratio))
    if found.text is not None:
        score = found.text.deployed or found.text.quantized
        checks.append(_at_most("KL to original on the text", score.kl, gate.max_kl_original, score.kl_interval))
    for task, right in found.tasks.items():
        checks.append(_at_most(f"{_DROP}, {task}", right.original - right.deployed, gate.max_task_drop))
    return _verdict(checks, gate)


def judge_tried(found: Sequence[manifest.Agreement], losses: Sequence[Losses], gate: Gate) -> manifest.Gate:
    """Apply the thresholds that ask whether a quantization is good, before there is a program.

    Args:
        found: the quantized eager model with the original, of each sequence.
        losses: of the original's answers.
        gate: the recipe's.
    """
    checks, known = [_divergence(over_sequences(found), " of quantized eager", gate)], perplexity(losses)
    if known is not None:
        checks.append(_ratio(known, gate.max_perplexity_ratio))
    return _verdict(checks, gate)


def judge_embeddings(found: VerifiedEmbedding, gate: Gate) -> manifest.Gate:
    """Apply a recipe's thresholds to the figures of a model that embeds texts.

    The mean counts for the quantized eager model: where activations are rounded at run time, a single short text may go
    either way, in the eager model too.
    """
    checks = witness_checks(found.witness)
    if found.agreement is None:  # the program could not be executed: what can be said is said of the eager model
        original, whose = found.eager, " of quantized eager"
    else:
        original, whose = found.agreement.original, ""
        near = found.agreement.quantized
        checks.append(_at_least("cosine to quantized eager", near.cosine, gate.min_cosine_quantized))
    checks.append(_at_least(f"lowest cosine{whose} to original", original.min_cosine, gate.min_cosine_original))
    checks.append(
        _at_least(f"rank correlation{whose} with original", original.rank_correlation, gate.min_rank_original)
    )
    return _verdict(checks, gate)


def judge_adapter(found: manifest.Agreement, gate: Gate) -> manifest.Gate:
    """Ask of a program with an adapter what is asked of it without: is it near the original with that adapter?"""
    return _verdict([_divergence(found, " with the adapter", gate)], gate)


def witness_checks(found: Witnessed) -> list[manifest.Check]:
    """Whether the original was read as it is meant (see `evaluation.reading`); nothing where there is no witness."""
    if found.difference is None or found.allowed is None:
        return []
    return [_at_most(f"difference of our reading of the original from {found.name}", found.difference, found.allowed)]


def too_far(found: manifest.Gate) -> bool:
    """Whether a failed check asks if the quantization is good; the others fail whatever the recipe."""
    return any(not each.passed and (each.interval or each.name.startswith(_DROP)) for each in found.checks)


def undecided(found: manifest.Gate) -> bool:
    """Whether more evidence may change a verdict: a threshold lies within the interval of its figure."""
    return any(each.interval and each.interval[0] <= each.threshold < each.interval[1] for each in found.checks)


def _divergence(near: manifest.Agreement, whose: str, gate: Gate) -> manifest.Check:
    return _at_most(f"KL{whose} to original", near.kl, gate.max_kl_original, near.kl_interval)


def _ratio(found: manifest.Perplexity, threshold: float) -> manifest.Check:
    value = found.deployed / found.original
    return _at_most(
        "perplexity of the original's answers, ratio to the original", value, threshold, found.ratio_interval
    )


def _share(threshold: float, count: int) -> float:
    return threshold - 2 * math.sqrt(max(0.0, threshold * (1 - threshold)) / count)


def _at_least(name: str, value: float, threshold: float) -> manifest.Check:
    return manifest.Check(name=name, value=value, threshold=threshold, passed=value >= threshold)


def _at_most(name: str, value: float, threshold: float, interval: manifest.Interval | None = None) -> manifest.Check:
    """An estimate passes where the upper end of its interval does."""
    passed = (value if interval is None else interval[1]) <= threshold
    return manifest.Check(name=name, value=value, threshold=threshold, interval=interval, passed=passed)


def _verdict(checks: Sequence[manifest.Check], gate: Gate) -> manifest.Gate:
    return manifest.Gate(
        thresholds=gate.model_dump(), checks=list(checks), passed=all(check.passed for check in checks)
    )
