"""The shape of an operator's result is computed once per kind of its arguments. Worth 60 %, and memory.

Each of ExecuTorch's passes interprets the whole graph anew, though layers are alike and most passes leave most of them
as they are. Results are handed out as the same objects, so a model's values take the memory of one layer. To go when
upstream's passes keep the values that they find.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from et_pipeline.upstream.descriptions import Descriptions, UnknownError


@contextmanager
def remembered_shapes() -> Iterator[None]:
    """Within the context; see above."""
    import torch
    from executorch.exir.delegate import executorch_call_delegate
    from executorch.exir.dialects.edge._ops import EdgeOpOverload
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx import Interpreter
    from torch.fx.experimental.symbolic_shapes import PropagateUnbackedSymInts

    aten = torch.ops.aten
    # RemoveNoopPass takes these for nothing where result and argument are the same object.
    compared = {aten.to.dtype, aten.slice_copy.Tensor}
    varying = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
    descriptions = Descriptions()
    results: dict[Any, Any] = {}
    compute = Interpreter.call_function

    def delegated(delegate: Any) -> Any:
        """What a delegate's results depend on beside its arguments: the graph that it stands for, and its constants."""
        program = delegate.original_module
        if any(not varying.isdisjoint(getattr(node.target, "tags", ())) for node in program.graph.nodes):
            raise UnknownError
        inputs = set(program.graph_signature.user_inputs)
        constants = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name not in inputs]
        spec = program.module_call_graph[0].signature.out_spec
        return descriptions.graph(program.graph_module), descriptions.of(constants), spec

    def call(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
        if type(self) not in (Interpreter, PropagateUnbackedSymInts):
            return compute(self, target, args, kwargs)
        op = target._op if isinstance(target, EdgeOpOverload) else target
        if op is not executorch_call_delegate and not (
            isinstance(op, torch._ops.OpOverload)
            and op not in compared
            and not op._schema.is_mutable
            and varying.isdisjoint(op.tags)
        ):
            return compute(self, target, args, kwargs)
        try:
            key: Any
            if op is executorch_call_delegate:
                key = op, delegated(args[0]), descriptions.of(args[1:]), descriptions.of(kwargs)
            else:
                key = op, descriptions.of(args), descriptions.of(kwargs)
        except UnknownError:
            return compute(self, target, args, kwargs)
        if key in results:
            return results[key]
        result = compute(self, target, args, kwargs)
        leaves = result if isinstance(result, (list, tuple)) else [result]
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        if all(type(leaf) is FakeTensor and leaf.constant is None for leaf in leaves) and not any(
            leaf is each for leaf in leaves for each in given
        ):
            results[key] = result
        return result

    with mock.patch.object(Interpreter, "call_function", call):
        yield
