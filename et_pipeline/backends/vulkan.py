"""Phones' GPUs by way of Vulkan: lowered on any host, executed on a phone only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from et_pipeline.backends.base import StaticBackend
from et_pipeline.upstream.refusals import noted_vulkan_refusals


class VulkanBackend(StaticBackend):
    """The delegate."""

    schemes = ("fp32", "int4_weight_only", "int8_weight_only")
    reason = "Vulkan's shaders take float activations"
    instead = "use recipe.scheme=int4_weight_only"

    def partitioner(self) -> Any:
        """See `StaticBackend.partitioner`."""
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return VulkanPartitioner({})

    def noted(self) -> AbstractContextManager[dict[str, str]]:
        """See `StaticBackend.noted`."""
        return noted_vulkan_refusals()
