"""What a branch of a `cond` changes of what it is given is asked once per kind of branch. Worth 7 %.

Making a program functional asks that of each branch of each `cond` twice, each time by a trace of the branch. The
answer for the branches of one layer is that for the branches of the next. To go when torch remembers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from et_pipeline.upstream.descriptions import Descriptions, UnknownError


@contextmanager
def remembered_branches() -> Iterator[None]:
    """Within the context; see above."""
    from torch._higher_order_ops.cond import CondOp
    from torch._subclasses.functional_tensor import FunctionalTensor

    descriptions = Descriptions()
    schemas: dict[Any, Any] = {}
    gen_schema = CondOp.gen_schema

    def operand(value: Any) -> Any:
        if type(value) is not FunctionalTensor:
            return descriptions.of(value)
        sizes = (*value.shape, None, *value.stride(), None, value.storage_offset())
        return "functional", value.dtype, value.device, value.requires_grad, *map(descriptions.of, sizes)

    def schema(self: Any, pred: Any, true_fn: Any, false_fn: Any, operands: Any) -> Any:
        try:
            key = (
                *(descriptions.graph(branch) for branch in (true_fn, false_fn)),
                operand(pred),
                type(operands),
                *map(operand, operands),
            )
        except UnknownError:
            return gen_schema(self, pred, true_fn, false_fn, operands)
        if key not in schemas:
            schemas[key] = gen_schema(self, pred, true_fn, false_fn, operands)
        return schemas[key]

    with mock.patch.object(CondOp, "gen_schema", schema):
        yield
