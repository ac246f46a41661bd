"""The steps of a run, and what each finds out beside the files that it writes; kept in its entry of the cache.

Of `verify` and `measure` it depends on the program's form: see `forms.base.Form`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from et_pipeline.backends.base import Delegation
from et_pipeline.evaluation.verified import Losses
from et_pipeline.manifest import Agreement, Rounded

ADAPTATIONS = ("merge_lora", "prune_depth", "prune_width", "distill")  # stages that make another checkpoint


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Acquired(_Result):
    """A checkpoint, read and checked; `warnings` say what of it is passed over, or made otherwise on phones."""

    parameters: int
    warnings: list[str]


class Merged(_Result):
    """A checkpoint with its adapter: see `adaptation.merging.merge`."""

    tensors: int
    rank: int
    trained_on: str | None
    files: dict[str, str]


class Compared(_Result):
    """How far a model is from what it was made of: KL in nats per token with its interval, perplexities of both."""

    kl: float
    kl_low: float
    kl_high: float
    top1: float
    perplexity: float | None
    original_perplexity: float | None


class Pruned(Compared):
    """A smaller checkpoint: see `adaptation.pruning.Pruned`."""

    before: int
    after: int
    cut: str


class Distilled(Compared):
    """A checkpoint that has learned: see `adaptation.training.Trained`."""

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float


class Qat(_Result):
    """Integers that have learned: see `adaptation.qat.Figures` and `adaptation.training.Trained`."""

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float
    before: float
    after: float
    changed: float


class Sampled(_Result):
    """Text of the model's own; no tokens where the model is too large to answer."""

    tokens: int


class Measured(_Result):
    """What rounding does to how many linears."""

    linears: int


class Quantized(_Result):
    """Quantized weights, and what became of those that the checkpoint holds quantized; None where it holds none."""

    bytes: int
    kept: Rounded | None = None
    requantized: Rounded | None = None
    qat: Qat | None = None


class Tried(_Result):
    """The quantized eager model with the original, of each sequence, and losses of the original's answers."""

    found: list[Agreement]
    losses: list[Losses]


class Exported(_Result):
    """An exported program."""

    bytes: int


class Lowered(_Result):
    """What phones run: the size of the program with its weights, and who computes what of it."""

    bytes: int
    delegation: Delegation
