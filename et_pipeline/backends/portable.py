"""ExecuTorch's own reference kernels: slow, the same everywhere, and what others are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends.base import Delegation, Support, lower_with

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization

SCHEMES = ("fp32",)


class PortableBackend:
    """The delegate."""

    can_execute = True
    static = True
    calibrated = False
    timed = False

    def prepare(self) -> None:
        """The runtime has it."""

    def check(self) -> None:
        """It lowers on any host."""

    def supports(self, q: Quantization) -> Support:
        """Refuse what it has no kernels for."""
        if q.scheme not in SCHEMES:
            return Support(ok=False, reason="the reference kernels compute in float32", instead="use recipe=fp32")
        return Support(ok=True)

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which is changed, and write it to `out`; see `Backend.lower`."""
        return lower_with(None, program, metadata, out)
