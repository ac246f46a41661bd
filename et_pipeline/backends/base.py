"""What every backend offers. Importing this module needs neither torch nor executorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization


class Support(BaseModel):
    """Whether a backend computes a quantization rightly; if not, why, and the nearest thing that it does."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    reason: str = ""
    instead: str = ""


class Delegation(BaseModel):
    """What of a program runs in the delegate, and what runs as an ordinary operator beside it."""

    model_config = ConfigDict(frozen=True)

    delegates: int
    delegated_operators: dict[str, int]
    fallback_operators: dict[str, int]


class Backend(Protocol):
    """A delegate of ExecuTorch."""

    can_execute: bool  # whether this host can run the result

    def supports(self, q: Quantization) -> Support:
        """Say whether `q` runs on this backend and is computed rightly."""

    def lower(self, program: ExportedProgram, metadata: dict[str, Any], out: Path) -> Delegation:
        """Lower `program`, which may be changed, and stream it with its constant methods to `out`."""
