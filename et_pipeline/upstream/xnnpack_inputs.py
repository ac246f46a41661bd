"""A delegate takes the weights of some linears from outside, at each call, where upstream knows only all or none.

`XnnpackPartitioner(force_non_static_weights_for_f32_linear=True)` would take those of norms and rotary embeddings from
outside too, which are packed once otherwise. To go when upstream lets one choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def weights_from_outside(config: Any, outside: Callable[[str], bool]) -> Any:
    """A configuration of linears for the partitioner, which leaves the weights of these names out of the delegate."""

    class _LinearConfig(config):
        def _get_weight_deps(self, node: Any, ep: Any, precision: Any) -> Any:
            weight = node.args[1]
            if weight.op == "placeholder" and outside(weight.name):
                return True, []
            return super()._get_weight_deps(node, ep, precision)

    return _LinearConfig
