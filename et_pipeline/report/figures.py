"""The figures of a program that programs are compared by, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from et_pipeline.manifest import Interval, Manifest, Perplexity, ProgramInfo, Quality

OWN = "own answers"
Name = TypeVar("Name", str, int)


class Distance(NamedTuple):
    """How far a program is from the original.

    Attributes:
        measured_on: the text, or the original's own answers.
        kl: in nats per token.
        kl_interval: where that lies with 95 %.
        top1: share of tokens that both find the most probable.
        perplexity: the program's; None if none was drawn.
        ratio: of that over the original's.
        ratio_interval: where that lies with 95 %.
    """

    measured_on: str
    kl: float
    kl_interval: Interval | None
    top1: float
    perplexity: float | None
    ratio: float | None
    ratio_interval: Interval | None


def distance(quality: Quality) -> Distance | None:
    """From the model before it was adapted, if it was; else on the text, if there is one; None: never executed."""
    if quality.unadapted is not None:
        near, drawn = quality.unadapted.agreement, quality.unadapted.perplexity
    elif quality.text is not None and quality.text.deployed is not None:
        found, original = quality.text.deployed, quality.text.original
        ratio = found.perplexity / original, found.ratio_interval
        return Distance(quality.text.source, found.kl, found.kl_interval, found.top1, found.perplexity, *ratio)
    elif quality.agreement is not None:
        near, drawn = quality.agreement.original.token_by_token, quality.perplexity
    else:
        return None
    return Distance(OWN, near.kl, near.kl_interval, near.top1, *_ratio(drawn))


def _ratio(drawn: Perplexity | None) -> tuple[float | None, float | None, Interval | None]:
    return (
        (None, None, None) if drawn is None else (drawn.deployed, drawn.deployed / drawn.original, drawn.ratio_interval)
    )


def accuracy(quality: Quality) -> tuple[float, float] | None:
    """Mean over the tasks in percent, and its change in points; None without tasks."""
    scores = list(quality.tasks.values())
    if not scores:
        return None
    deployed, original = (
        sum(each) / len(scores) for each in zip(*((s.deployed, s.original) for s in scores), strict=True)
    )
    return deployed, deployed - original


def program_bytes(manifest: Manifest, program: ProgramInfo) -> int:
    """The program with its weights."""
    return sum(manifest.files[file].size for file in (program.file, *program.weights))


def front(points: Mapping[Name, tuple[float, float]]) -> list[Name]:
    """The Pareto front: names of the points that no other equals or beats in both numbers and beats in one.

    Args:
        points: two numbers by name, the less the better.

    Returns:
        Names by the first number.
    """
    chosen: list[Name] = []
    for name in sorted(points, key=points.__getitem__):
        if not chosen or points[name][1] < points[chosen[-1]][1] or points[name] == points[chosen[-1]]:
            chosen.append(name)
    return chosen


def least_drawn(kls: Iterable[float]) -> float:
    """Where a logarithmic axis of KL begins: fp32 differs by its rounding only, which would be miles below."""
    return min((kl for kl in kls if kl > 1e-6), default=1e-6) / 3
