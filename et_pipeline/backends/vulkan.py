"""Phones' GPUs by way of Vulkan: lowered on any host, executed on a phone only."""

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


class VulkanBackend:
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
                ok=False, reason="Vulkan's shaders take float activations", instead="use recipe.scheme=int4_weight_only"
            )
        return Support(ok=True)

    def lower(
        self, program: ExportedProgram, metadata: dict[str, Any], out: Path, external_weights: bool = False
    ) -> Delegation:
        """Lower `program`, which is changed, and write it to `out`; see `Backend.lower`."""
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return lower_with(VulkanPartitioner({}), program, metadata, out)
