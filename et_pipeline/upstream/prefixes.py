"""The first slots of a head of a cache are a part of that cache: they are not copied.

executorch 1.5.1 gives every slice a place of its own, into which it copies at run time, on one thread: of a key/value
cache all that is used, for every token. So this is an operator of its own. Its result is planned where that part of the
cache lies; and what runs in its place is `aten::empty`, which gives its result a size and writes nothing. What is
written into the cache afterwards shows in it; a decoder writes first. To go when a slice is a view where it can be.
"""

from __future__ import annotations

from typing import Any

import torch

_LIBRARY = torch.library.Library("et_pipeline", "DEF")
_LIBRARY.define("first_slots(Tensor cache, int head, SymInt used) -> Tensor")
_LIBRARY.define("first_slots.out(Tensor cache, int head, SymInt used, *, Tensor(a!) out) -> Tensor(a!)")


def _copied(cache: torch.Tensor, head: int, used: Any) -> torch.Tensor:
    return cache[head].narrow(0, 0, used).squeeze(1).unsqueeze(0).clone()


_LIBRARY.impl("first_slots", _copied, "CPU")


@torch.library.register_fake("et_pipeline::first_slots", lib=_LIBRARY)
def _described(cache: torch.Tensor, head: int, used: Any) -> torch.Tensor:
    return cache.new_empty(1, used, cache.shape[3])


def first_slots(cache: torch.Tensor, head: int, used: Any) -> torch.Tensor:
    """Slots 0 to `used` - 1 of a head.

    Args:
        cache: [heads, length, 1, dim], a buffer where this is lowered.
        head: which.
        used: how many slots, may be known only at run time.

    Returns:
        [1, used, dim].
    """
    found: torch.Tensor = torch.ops.et_pipeline.first_slots(cache, head, used)
    return found


def planning_with_prefixes(**options: Any) -> Any:
    """Upstream's memory planning with these options, in which `first_slots` of a buffer lie in the buffer."""
    from executorch.exir.passes import MemoryPlanningPass

    class _Planning(MemoryPlanningPass):
        def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
            found = [node for node in graph_module.graph.nodes if node.target == torch.ops.et_pipeline.first_slots.out]
            for node in found:
                cache = node.args[0].meta["val"]
                node.meta["_share_alloc_with_arg_idx"] = 0
                node.meta["_shared_alloc_offset"] = node.args[1] * cache[0].numel() * cache.element_size()
            result = super().run(graph_module, graph_signature)
            for node in found:
                cache, _, used = node.args
                node.target, node.args = torch.ops.aten.empty.out, ([1, used, cache.meta["val"].shape[3]],)
            graph_module.recompile()
            return result

    return _Planning(**options)
