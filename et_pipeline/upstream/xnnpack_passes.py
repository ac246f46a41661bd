"""XNNPACK's preprocessing of plain graphs leaves out passes that find nothing in them. Half a lowering.

executorch 1.5.1 runs 17 passes over every delegate, each of them a trace of its own. A graph of these operators alone
needs these passes alone; the others look for convolutions, pooling, batch norms, padding, concatenations and resizing.
A test compares the bytes. To go when upstream leaves them out itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

PLAIN_OPERATORS = frozenset(
    (
        "aten._softmax.default",
        "aten._to_copy.default",
        "aten.add.Tensor",
        "aten.bmm.default",
        "aten.clamp.default",
        "aten.clone.default",
        "aten.cos.default",
        "aten.gelu.default",
        "aten.linear.default",
        "aten.mul.Tensor",
        "aten.neg.default",
        "aten.permute_copy.default",
        "aten.rsqrt.default",
        "aten.sigmoid.default",
        "aten.sin.default",
        "aten.slice_copy.Tensor",
        "aten.sub.Tensor",
        "aten.tanh.default",
        "aten.view_copy.default",
        "getitem",
        "torchao.choose_qparams_affine.default",
        "torchao.dequantize_affine.default",
        "torchao.quantize_affine.default",
    )
)
_PLAIN_PASSES = frozenset(("XNNPACKRemoveCloneOpsTransform", "DimOrderOpsRevertPass"))


@contextmanager
def passes_with_work() -> Iterator[None]:
    """Within the context XNNPACK's preprocessing leaves out the passes that have nothing to do."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    class _PassManager(XNNPACKPassManager):
        """Leaves out the passes that have nothing to do."""

        def __init__(self, exported_program: Any, passes: Any = None) -> None:
            super().__init__(exported_program, passes)
            own: Any = self
            calls = exported_program.graph_module.graph.nodes
            operators = {node.target.__name__ for node in calls if node.op == "call_function"}
            if operators <= PLAIN_OPERATORS:
                own.passes = [each for each in own.passes if each.__name__ in _PLAIN_PASSES]

    with mock.patch.object(xnnpack_preprocess, "XNNPACKPassManager", _PassManager):
        yield
