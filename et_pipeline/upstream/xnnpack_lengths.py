"""XNNPACK takes what has a length that is known only at run time, which attention to a cache has.

executorch 1.5.1 takes none of it, because it might be 0, and asks whether a tensor lies as convolutions want it, in a
way that such a length has no answer to. To go when it asks otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


def infer_symbolic_views(module: Any) -> Any:
    """Edge pass: write the one symbolic size of a view as -1, so that XNNPACK takes it; no retrace."""
    from executorch.exir.dialects._ops import ops
    from torch.fx.passes.infra.pass_base import PassResult

    changed = False
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target != ops.edge.aten.view_copy.default:
            continue
        symbolic = [index for index, size in enumerate(node.args[1]) if not isinstance(size, int)]
        if len(symbolic) == 1:
            # From the result's shape, because the argument may hold a -1 of its own already.
            shape = [-1 if index in symbolic else int(size) for index, size in enumerate(node.meta["val"].shape)]
            node.args = (node.args[0], shape)
            changed = True
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, changed)


@contextmanager
def lengths_known_at_run_time() -> Iterator[None]:
    """Within the context the partitioner takes lengths that cannot be 0, and the delegate's passes go on."""
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import ChannelsLastTaggedReshapePass
    from executorch.backends.xnnpack.partition.config import xnnpack_config
    from torch.fx.experimental.symbolic_shapes import has_free_unbacked_symbols
    from torch.utils._sympy.value_ranges import bound_sympy

    is_nhwc = ChannelsLastTaggedReshapePass._is_nhwc_tensor

    def may_be_empty(value: Any) -> bool:
        """Upstream refuses every length that is known only at run time, because it might be 0."""

        def least(size: Any) -> Any:
            return (
                size if isinstance(size, int) else bound_sympy(size.node.expr, size.node.shape_env.var_to_range).lower
            )

        return has_free_unbacked_symbols(value) and any(least(size) < 1 for size in value.shape)

    def known_nhwc(tensor: Any) -> bool:
        """Images have sizes that are known."""
        return not has_free_unbacked_symbols(tensor) and is_nhwc(tensor)

    with (
        mock.patch.object(xnnpack_config, "has_free_unbacked_symbols", may_be_empty),
        mock.patch.object(ChannelsLastTaggedReshapePass, "_is_nhwc_tensor", staticmethod(known_nhwc)),
    ):
        yield
