"""The steps of a run, and what each finds out beside the files that it writes; kept in its entry of the cache.

Of `verify` and `measure` it depends on the program's form: see `forms.base.Form`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from et_pipeline.backends.base import Delegation
from et_pipeline.evaluation.verified import Losses
from et_pipeline.manifest import Agreement, Rounded


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
