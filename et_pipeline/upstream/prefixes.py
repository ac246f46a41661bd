"""The first part of a buffer is that buffer with another size: it is not copied.

executorch 1.5.1 gives every slice a place of its own, into which it copies at run time, on one thread: of a key/value
cache all that is used, for every token. Planned here is the buffer's own place; and what runs instead of the copy is
`aten::empty`, which gives its result a size and writes nothing. What is written into the buffer after the slice shows
in the slice; a decoder writes first. To go when a slice is a view where it can be.
"""

from __future__ import annotations

from typing import Any


def planning_with_prefixes(**options: Any) -> Any:
    """Upstream's memory planning with these options, in which the first part of a mutable buffer lies in the buffer."""
    from executorch.exir.passes import MemoryPlanningPass

    class _Planning(MemoryPlanningPass):
        def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
            prefixes = [node for node in graph_module.graph.nodes if _is_prefix(node, graph_signature)]
            for node in prefixes:
                node.meta["_share_alloc_with_arg_idx"] = 0
            result = super().run(graph_module, graph_signature)
            for node in prefixes:
                _write_nothing(node)
            graph_module.recompile()
            return result

    return _Planning(**options)


def _is_prefix(node: Any, signature: Any) -> bool:
    """Whether it is a slice of a buffer from its start on, in the first dimension that is not 1."""
    import torch

    if node.target != torch.ops.aten.slice_copy.Tensor_out:
        return False
    buffer, dim, start, _, *step = node.args
    changed = signature.buffers_to_mutate.values()
    if buffer.op != "placeholder" or signature.inputs_to_buffers.get(buffer.name) not in changed:
        return False
    return start == 0 and step in ([], [1]) and all(size == 1 for size in buffer.meta["val"].shape[:dim])


def _write_nothing(node: Any) -> None:
    import torch

    buffer, dim, _, end, *_ = node.args
    sizes = list(buffer.meta["val"].shape)
    sizes[dim] = end
    node.target, node.args = torch.ops.aten.empty.out, (sizes,)
