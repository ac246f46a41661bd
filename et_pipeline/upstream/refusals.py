"""Why a partitioner leaves an operator out. For the report; nothing is lowered otherwise.

executorch 1.5.1 says it in a log at most, and some partitioners not at all. To go when partitioners give their reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


def operator_name(node: Any) -> str:
    """The name of what a graph's node calls, without its overload, such as aten::index_put."""
    schema = getattr(node.target, "_schema", None)
    return str(node.target) if schema is None else str(schema.name)


@contextmanager
def noted_refusals(checker: type[Any], reason: Callable[[Any, Any], str]) -> Iterator[dict[str, str]]:
    """Note what a partitioner's `checker` says no to, with the `reason` for the checker and the node."""
    asked = checker.is_node_supported
    refused: dict[str, str] = {}

    def ask(self: Any, submodules: Any, node: Any) -> bool:
        supported: bool = asked(self, submodules, node)
        if not supported and node.op == "call_function":
            refused[operator_name(node)] = reason(self, node)
        return supported

    with mock.patch.object(checker, "is_node_supported", ask):
        yield refused


@contextmanager
def noted_vulkan_refusals() -> Iterator[dict[str, str]]:
    """Note why Vulkan's partitioner leaves an operator out: its own words, which it would write into a log."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanSupportedOperators

    reasons: dict[str, str] = {}

    def note(self: Any, node: Any, reason: str) -> None:
        if node.op == "call_function":
            reasons[operator_name(node)] = reason.partition(" for op ")[0]  # what follows are shapes

    with mock.patch.object(VulkanSupportedOperators, "log_skip", note):
        yield reasons


@contextmanager
def noted_xnnpack_refusals() -> Iterator[dict[str, str]]:
    """Note why XNNPACK's partitioner leaves out what XNNPACK has kernels for: its own words, which it would log."""
    from executorch.exir.backend.utils import WhyNoPartition

    reasons: dict[str, str] = {}

    def note(self: Any, node: Any, reason: str) -> None:
        reasons[operator_name(node)] = reason

    with mock.patch.object(WhyNoPartition, "__call__", note):
        yield reasons
