"""What a sweep over recipes found, in figures to compare: of `make compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from et_pipeline.manifest import Interval, Manifest
from et_pipeline.report.figures import accuracy, distance, front, program_bytes
from et_pipeline.report.words import check_sentence
from et_pipeline.settings import Frozen

ADAPTED = "adapted"


class Outcome(Frozen):
    """What became of one recipe.

    Attributes:
        refused: why it could not be tried, in a sentence; then there is nothing else.
        manifest: of its bundle, whose gate may have failed.
        parts: bytes of its program by part.
        weight_errors: of each linear, ‖W − Q‖ / ‖W‖; empty where nothing is rounded or W is not known.
        layer_errors: of each layer's output, ‖ĥ − h‖ / ‖h‖.
        seconds: what it took just now.
        reused: whether all stages were in the cache.
    """

    name: str
    refused: str | None = None
    manifest: Manifest | None = None
    parts: dict[str, int] = Field(default={})
    weight_errors: dict[str, float] = Field(default={})
    layer_errors: tuple[float, ...] = ()
    seconds: float = 0
    reused: bool = False


class Comparison(Frozen):
    """A sweep over recipes on one model, as `compare.json` holds it."""

    model: str
    date: str
    machine: str
    overrides: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def measured(self) -> list[Outcome]:
        """Those with figures, smallest first."""
        return sorted((each for each in self.outcomes if each.manifest), key=lambda each: figures(each).size)


class Figures(NamedTuple):
    """One recipe in numbers; all of the deployed program.

    Attributes:
        size: bytes of the program.
        perplexity: on the text, or of the original's own answers; None if none was drawn.
        kl: from the original, in nats per token, on the same.
        kl_interval: where that lies with 95 %.
        top1: share of tokens that both find the most probable.
        accuracy: mean over the tasks in percent, and its change in points; None without tasks.
        prefill: tokens per second on this host, if measured.
        decode: the same.
        failed: checks of the gate that failed, in words.
    """

    size: int
    perplexity: float | None
    kl: float
    kl_interval: Interval | None
    top1: float
    accuracy: tuple[float, float] | None
    prefill: float | None
    decode: float | None
    failed: list[str]


def figures(outcome: Outcome) -> Figures:
    """Pick the figures to compare out of a manifest."""
    manifest = outcome.manifest
    assert manifest is not None
    found = distance(manifest.quality)
    assert found is not None
    speed = manifest.speed[0] if manifest.speed else None
    return Figures(
        size=program_bytes(manifest, manifest.main),
        perplexity=found.perplexity,
        kl=found.kl,
        kl_interval=found.kl_interval,
        top1=found.top1,
        accuracy=accuracy(manifest.quality),
        prefill=None if speed is None else speed.prefill_tok_s.p50,
        decode=None if speed is None else speed.decode_tok_s.p50,
        failed=[check_sentence(check) for check in manifest.quality.gate.checks if not check.passed],
    )


def best(comparison: Comparison) -> list[str]:
    """The recipes that no other beats in both size and KL, smallest first."""
    found = {each.name: figures(each) for each in comparison.measured}
    return front({name: (each.size, each.kl) for name, each in found.items()})


def recipe(outcome: Outcome) -> Mapping[str, Any]:
    """The recipe's settings of one with figures."""
    assert outcome.manifest is not None
    return outcome.manifest.what.settings["recipe"]


def method(outcome: Outcome) -> str:
    """How one with figures was made, in words."""
    assert outcome.manifest is not None
    steps = [each.step for each in outcome.manifest.what.adaptation if each.step != "merge_lora"]
    return ADAPTED if steps else rounding(recipe(outcome))


def rounding(recipe: Mapping[str, Any]) -> str:
    """Which of the methods a recipe's settings are, in words."""
    if recipe["scheme"] != "8da4w":
        return {"fp32": "fp32", "int4_weight_only": "4 bits, weight-only"}.get(recipe["scheme"], "8 bits")
    if recipe["mixed_bits"] is not None:
        return "mixed 4 and 8 bits"
    transform = {"none": "", "awq": "AWQ", "smoothquant": "SmoothQuant", "rotation": "rotation"}[recipe["transform"]]
    algorithm = "" if transform and recipe["algorithm"] == "rtn" else str(recipe["algorithm"]).upper()
    return " + ".join(filter(None, (transform, algorithm)))
