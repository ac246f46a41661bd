"""Phones' GPUs by way of Vulkan: lowered on any host, executed on a phone only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from et_pipeline.backends.base import StaticBackend, operator_name


class VulkanBackend(StaticBackend):
    """The delegate."""

    schemes = ("fp32", "int4_weight_only", "int8_weight_only")
    reason = "Vulkan's shaders take float activations"
    instead = "use recipe.scheme=int4_weight_only"

    def partitioner(self) -> Any:
        """See `StaticBackend.partitioner`."""
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return VulkanPartitioner({})

    @contextmanager
    def noted(self) -> Iterator[dict[str, str]]:
        """See `StaticBackend.noted`: the partitioner's own words, which it would write into a log."""
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanSupportedOperators

        reasons: dict[str, str] = {}

        def note(self: Any, node: Any, reason: str) -> None:
            if node.op == "call_function":
                reasons[operator_name(node)] = reason.partition(" for op ")[0]  # what follows are shapes

        with mock.patch.object(VulkanSupportedOperators, "log_skip", note):
            yield reasons
