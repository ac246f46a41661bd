"""A batched matrix product takes its second factor as it lies and transposes it while packing, which is free.

executorch 1.5.1 never sets XNNPACK's flag for that, and makes a transposed copy of the keys. To go when it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_TRANSPOSE_B = 1  # XNN_FLAG_TRANSPOSE_B


@contextmanager
def transposed_while_packing() -> Iterator[None]:
    """Within the context a batched matrix product takes its second factor as it lies."""
    from executorch.backends.xnnpack.operators import node_visitor

    own = node_visitor._node_visitor_dict
    with mock.patch.dict(own, _visitors(own)):
        yield


def _visitors(visitors: dict[str, Any]) -> dict[str, Any]:
    """Let a batched matrix product take its second factor as it lies and transpose it while packing, which is free."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNBatchMatrixMultiply, XNode
    from executorch.exir.dialects._ops import ops

    product, permute = ops.edge.aten.bmm.default, ops.edge.aten.permute_copy.default

    def folded(node: Any) -> bool:
        return (
            node.op == "call_function"
            and node.target == permute
            and [dim % 3 for dim in node.args[1]] == [0, 2, 1]
            and all(user.target == product and user.args[1] is node and user.args[0] is not node for user in node.users)
        )

    products: Any = visitors["aten.bmm.default"]
    permutes: Any = visitors["aten.permute_copy.default"]

    class _Product(products):
        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            second = node.args[1]
            if not folded(second):
                super().define_node(node, xnn_graph, vals_to_ids, debug_handle)
                return
            tensors = node.args[0], second.args[0], node
            for each in tensors:
                self.define_tensor(each, xnn_graph, vals_to_ids)
            first, second, out = (vals_to_ids[each] for each in tensors)
            call = XNNBatchMatrixMultiply(input1_id=first, input2_id=second, output_id=out, flags=_TRANSPOSE_B)
            xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))

    class _Permute(permutes):
        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            if not folded(node):
                super().define_node(node, xnn_graph, vals_to_ids, debug_handle)

    return {"aten.bmm.default": _Product, "aten.permute_copy.default": _Permute}
