"""Apple's Core ML (iOS 18): lowered on any host, executed on Apple hardware only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends.base import Delegation, Support, lower_with

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from et_pipeline.settings import Quantization

SCHEMES = (
    "fp32",
    "int4_weight_only",
    "int8_weight_only",
)


class CoreMlBackend:
    """The delegate."""

    can_execute = False
    static = True
    calibrated = False
    timed = False

    def prepare(self) -> None:
        """The runtime has it."""

    def check(self) -> None:
        """It lowers on any host."""

    def supports(self, q: Quantization) -> Support:
        """Refuse what was not seen to lower."""
        if q.scheme not in SCHEMES:
            return Support(
                ok=False,
                reason="Core ML takes weights in 4 or 8 bits and float activations",
                instead="use recipe.scheme=int4_weight_only",
            )
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
