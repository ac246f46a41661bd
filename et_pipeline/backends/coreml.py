"""Apple's Core ML (iOS 18): lowered on any host, executed on Apple hardware only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends.base import Delegation, Support, lower_with

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization


class CoreMlBackend:
    """The delegate."""

    can_execute = False
    static = True
    calibrated = False

    def supports(self, q: Quantization) -> Support:
        """SUPPORTS"""
        return Support(ok=True)

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which is changed, and write it to `out`; see `Backend.lower`."""
        import coremltools
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=coremltools.target.iOS18, compute_precision=coremltools.precision.FLOAT16
        )
        return lower_with(CoreMLPartitioner(compile_specs=specs), program, metadata, out)
