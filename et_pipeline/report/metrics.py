"""The figures of a bundle that a search may weigh against each other: `sweep.metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from et_pipeline.errors import UserError
from et_pipeline.manifest import Manifest
from et_pipeline.report.comparison import Figures, Outcome, figures
from et_pipeline.report.figures import distance, program_bytes
from et_pipeline.report.words import size
from et_pipeline.settings import Metric


class Kind(NamedTuple):
    """A figure.

    Attributes:
        direction: which way is better.
        words: what it is called, with its unit.
        value: picks it; None where the bundle has none.
        shown: the number in words.
    """

    direction: str
    words: str
    value: Callable[[Figures], float | None]
    shown: Callable[[float], str]


def _rate(value: float) -> str:
    return f"{value:,.0f}"


METRICS: dict[Metric, Kind] = {
    "size": Kind("minimize", "size", lambda f: f.size, lambda value: size(int(value))),
    "kl": Kind("minimize", "KL in nats", lambda f: f.kl, "{:.4f}".format),
    "top1": Kind("maximize", "top-1", lambda f: f.top1, "{:.2%}".format),
    "perplexity": Kind("minimize", "perplexity", lambda f: f.perplexity, "{:.3f}".format),
    "accuracy": Kind("maximize", "accuracy in %", lambda f: f.accuracy and f.accuracy[0], "{:.1f}".format),
    "prefill": Kind("maximize", "prefill in tok/s", lambda f: f.prefill, _rate),
    "decode": Kind("maximize", "decode in tok/s", lambda f: f.decode, _rate),
}


def of(manifest: Manifest, names: Sequence[Metric]) -> tuple[float, ...]:
    """The figures of a bundle.

    Raises:
        UserError: it has one of them not.
    """
    found = [_value(name, manifest) for name in names]
    for name, value in zip(names, found, strict=True):
        if value is None:
            raise UserError(
                f"sweep.metrics has {name}, which {manifest.what.name} has no figure of; leave it out, or measure it"
            )
    return tuple(float(value) for value in found if value is not None)


def shown(name: Metric, manifest: Manifest) -> str:
    """A figure in words; empty where there is none."""
    value = _value(name, manifest)
    return "" if value is None else METRICS[name].shown(value)


def _value(name: Metric, manifest: Manifest) -> float | None:
    if name == "size":
        return program_bytes(manifest, manifest.main)
    if distance(manifest.quality) is None:  # it embeds texts, or was not executed
        return None
    return METRICS[name].value(figures(Outcome(name=manifest.what.name, manifest=manifest)))
