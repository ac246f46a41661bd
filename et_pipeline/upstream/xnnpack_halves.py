"""XNNPACK makes fp32 of fp16, for which it has kernels.

executorch 1.5.1 never hands it a conversion. Its own operator has one thread, and on x86 goes number by number: a token
that reads 2,048 others in fp16 took three times as long there as in fp32. To go when it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


def _widens(node: Any) -> bool:
    import torch

    (tensor,) = node.all_input_nodes
    return (tensor.meta["val"].dtype, node.meta["val"].dtype) == (torch.float16, torch.float32)


def halves_config() -> Any:
    """A partitioner's config that takes conversions of fp16 to fp32."""
    from executorch.backends.xnnpack.partition.config.generic_node_configs import GenericNodePartitionerConfig
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType

    class _Halves(GenericNodePartitionerConfig):
        target_name = "_to_copy.default"

        def check_constraints(self, node: Any, ep: Any) -> bool:
            return _widens(node) and self.check_common_constraints(node, ep)

        def supported_precision_types(self) -> list[Any]:
            return [ConfigPrecisionType.FP32]

    return _Halves


@contextmanager
def halves_widened() -> Iterator[None]:
    """Within the context a conversion of fp16 to fp32 becomes XNNPACK's own.

    Two of upstream's passes take every copy for one into the order that convolutions want, or out of it.
    """
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import ChannelsLastTaggedReshapePass
    from executorch.backends.xnnpack._passes.remove_redundant_copy_pass import RemoveRedundantCopyPass
    from executorch.backends.xnnpack.operators import node_visitor

    remove = RemoveRedundantCopyPass._try_remove_regular_redundant_to_copy
    own, tag = node_visitor._node_visitor_dict, ChannelsLastTaggedReshapePass.tag_node

    def tag_moved(self: Any, node: Any) -> None:
        if not _widens(node):
            tag(self, node)

    def remove_moved(self: Any, node: Any, graph: Any) -> Any:
        return not _widens(node) and remove(self, node, graph)

    with (
        mock.patch.dict(own, _visitors(own)),
        mock.patch.object(ChannelsLastTaggedReshapePass, "tag_node", tag_moved),
        mock.patch.object(RemoveRedundantCopyPass, "_try_remove_regular_redundant_to_copy", remove_moved),
    ):
        yield


def _visitors(visitors: dict[str, Any]) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert, XNode

    copies: Any = visitors["aten._to_copy.default"]

    class _Copy(copies):
        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            if not _widens(node):
                super().define_node(node, xnn_graph, vals_to_ids, debug_handle)
                return
            for each in (node.args[0], node):
                self.define_tensor(each, xnn_graph, vals_to_ids)
            call = XNNConvert(input_id=vals_to_ids[node.args[0]], output_id=vals_to_ids[node], flags=0)
            xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))

    return {"aten._to_copy.default": _Copy}
