"""Those of ExecuTorch's passes over a graph that would change nothing in it are left out. Worth 7 %.

Each of them builds the graph anew, operator by operator. What that does beside the pass's purpose, such as names and
shapes after a change, the last of the passes does again. To go when upstream's passes look before they build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


@contextmanager
def idle_passes() -> Iterator[None]:
    """Within the context; see above."""
    import torch
    from executorch.exir.passes.dim_order_ops_registry import MemoryFormatOpsMap
    from executorch.exir.passes.memory_format_ops_pass import DimOrderOpsRevertPass
    from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
    from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import ReplaceBrokenOpsWithFunctionalOpsPass
    from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
    from torch.fx import GraphModule, Node
    from torch.fx.passes.infra.pass_base import PassResult

    def transposes(node: Any) -> bool:
        return bool(node.target == torch.ops.aten.t.default)

    def views(node: Any) -> bool:
        return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view

    def orders_dimensions(node: Any) -> bool:
        return node.target in MemoryFormatOpsMap

    def takes_symbols(node: Any) -> bool:
        """Whether it gets a symbol for a tensor."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        given = dict(zip((each.name for each in node.target._schema.arguments), node.args, strict=False)) | node.kwargs
        return any(
            isinstance(given.get(each.name), Node)
            and isinstance(each.type, torch.TensorType)
            and not isinstance(given[each.name].meta.get("val"), torch.Tensor)
            for each in node.target._schema.arguments
        )

    def where(busy: Callable[[Any], bool], call: Any) -> Any:
        def maybe(self: Any, module: Any) -> Any:
            graphs = [each.graph for each in module.modules() if isinstance(each, GraphModule)]
            if any(busy(node) for graph in graphs for node in graph.nodes if node.op == "call_function"):
                return call(self, module)
            return PassResult(module, False)

        return maybe

    with ExitStack() as patches:
        for kind, busy in (
            (NormalizeTransposePass, transposes),
            (ReplaceBrokenOpsWithFunctionalOpsPass, views),
            (DimOrderOpsRevertPass, orders_dimensions),
            (SymToTensorPass, takes_symbols),
        ):
            patches.enter_context(mock.patch.object(kind, "call", where(busy, kind.call)))
        yield
