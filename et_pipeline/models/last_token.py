"""What only a prompt's last token needs is computed for that one alone.

A program gives the last token's logits. Of its last layer nobody uses what the other tokens of a prompt would get, but
their keys and values. The attention of that layer takes the last token's query alone (`attention.Call.final`), and
`only_last` moves the cut of the last token in an exported graph towards its beginning, as far as nobody needs more.
"""

from __future__ import annotations

import operator
import sys
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torchao.quantization.quant_primitives  # noqa: F401  registers torchao's operators
from torch.fx.node import map_arg

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

_aten, _torchao = torch.ops.aten, torch.ops.torchao

# Beside what torch has a mark for: each number of the result is of the numbers at its place.
_POINTWISE = frozenset(
    (
        _aten.alias.default,
        _aten.contiguous.default,
        _aten.detach.default,
        _aten.dropout.default,
        _aten.hardswish.default,
        _aten.log_sigmoid.default,
        _aten.to.dtype,
        _aten.type_as.default,
    )
)
_SIZED = frozenset((_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.expand.default))
_PARTS = frozenset((_aten.chunk.default, _aten.split.Tensor, _aten.split_with_sizes.default))
_BLOCKS = {  # which argument says how many numbers of each dimension have one scale
    _torchao.choose_qparams_affine.default: 2,
    _torchao.quantize_affine.default: 1,
    _torchao.dequantize_affine.default: 1,
}


def only_last(module: GraphModule) -> None:
    """Edit a graph in place so that it computes of the last token alone what nobody needs of others.

    The result is the same. At an operator that is not known here the way ends: behind it the last token is cut out.
    """
    graph: Any = module.graph
    graph.eliminate_dead_code()  # whoever is not heard does not need all tokens either
    last: dict[Node, int] = {}  # of whose result only the last is needed, in this dimension
    sources: dict[Node, dict[Node, int]] = {}  # and of what that is computed
    for node in reversed(graph.nodes):  # users come first
        users = [user for user in node.users if user.target is not _aten._assert_tensor_metadata.default]
        is_cut = _is_cut(node) and all(user.op != "output" for user in users)  # an output's name is part of the program
        dims = {node.args[1] % _rank(node)} if is_cut else {sources.get(user, {}).get(node) for user in users}
        dim = dims.pop() if len(dims) == 1 else None
        if dim is not None and (found := _sources(node, dim)) is not None:
            last[node], sources[node] = dim, found
    cuts: dict[tuple[Node, int], Node] = {}
    for node in [each for each in graph.nodes if each in last]:
        if node.target is operator.getitem and node.args[0] not in last:  # of another part all is needed
            del last[node]
            continue
        for source, dim in sources[node].items():
            if source in last:
                continue
            if (source, dim) not in cuts:
                with graph.inserting_after(source):
                    cuts[source, dim] = graph.call_function(_aten.slice.Tensor, (source, dim, -1, sys.maxsize))
                _describe(cuts[source, dim])
            node.replace_input_with(source, cuts[source, dim])
        if node.target is _aten.slice.Tensor and node.args[1] % _rank(node) == last[node]:
            node.replace_all_uses_with(node.args[0])
            continue
        if node.target in _SIZED:
            node.update_arg(1, [1 if at == last[node] else size for at, size in enumerate(node.args[1])])
        _describe(node)
        if node.target is _aten.expand.default and node.meta["val"].shape == node.args[0].meta["val"].shape:
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
    module.recompile()


def _is_cut(node: Any) -> bool:
    """Whether it takes the last of as many as there are at run time, of what has one such dimension."""
    if node.target is not _aten.slice.Tensor or node.args[2:] not in ((-1,), (-1, sys.maxsize)):
        return False
    source, dim = node.args[:2]
    return [at for at in range(_rank(source)) if _varies(source, at)] == [dim % _rank(source)]


def _describe(node: Any) -> None:
    """Say anew what shape the result has."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    node.meta["val"] = node.target(*args, **kwargs)


def _shape(node: Any) -> Any:
    value = node.meta.get("val")
    return getattr(value[0] if isinstance(value, (tuple, list)) else value, "shape", ())


def _rank(node: Any) -> int:
    return len(_shape(node))


def _varies(node: Any, dim: int) -> bool:
    return not isinstance(_shape(node)[dim], int)


def _given(node: Any, at: int) -> int:
    """An argument that is 0 where it is not given."""
    return node.args[at] if len(node.args) > at else 0


def _sources(node: Any, dim: int) -> dict[Node, int] | None:
    """Which dimension of which arguments the last of a result's dimension is the last of; None: it is of more.

    Arguments that are used whole are not among them: weights, and what has one number for all.
    """
    target, rank = node.target, _rank(node)
    first: Any = node.args[0] if node.args else None
    if target in _POINTWISE or torch.Tag.pointwise in getattr(target, "tags", ()):
        aligned = {each: dim - rank + _rank(each) for each in node.all_input_nodes}
        found = {each: at for each, at in aligned.items() if at >= 0 and _varies(each, at)}
        return found if found and not target._schema.is_mutable else None
    if target is _aten.expand.default:
        at = dim - rank + _rank(first)
        return {first: at} if at >= 0 and _varies(first, at) else {}
    if target in _SIZED:
        return _source_of_view(first, _shape(node), dim)
    if target is _aten.transpose.int:
        one, other = node.args[1] % rank, node.args[2] % rank
        return {first: {one: other, other: one}.get(dim, dim)}
    if target is _aten.permute.default:
        return {first: node.args[1][dim] % rank}
    if target is _aten.unsqueeze.default:
        return {first: dim - (dim > node.args[1] % rank)}
    if target in _BLOCKS:
        blocks = node.args[_BLOCKS[target]]
        tensors = [each for each in node.all_input_nodes if dim < _rank(each)]
        return dict.fromkeys(tensors, dim) if dim < len(blocks) - 1 and blocks[dim] == 1 else None
    if target is _aten.cat.default:
        return None if dim == _given(node, 1) % rank else dict.fromkeys(first, dim)
    return {first: dim} if _is_cut(node) or _keeps_apart(node, dim, rank) else None


def _keeps_apart(node: Any, dim: int, rank: int) -> bool:
    """Whether an operator does the same for every place in this dimension."""
    target = node.target
    if target is _aten.linear.default:
        return dim != rank - 1 and node.args[0] not in node.args[1:]
    if target in (_aten.softmax.int, _aten.slice.Tensor):
        return dim != _given(node, 1) % rank
    if target in (_aten.layer_norm.default, _aten.rms_norm.default):
        return dim < rank - len(node.args[1])
    if target is _aten.mean.dim:
        return node.args[2:] == (True,) and dim not in [each % rank for each in node.args[1]]
    if target in _PARTS:
        return dim != _given(node, 2) % rank
    return target is operator.getitem


def _source_of_view(source: Any, shape: Any, dim: int) -> dict[Node, int] | None:
    given = _shape(source)
    for at, size in enumerate(given):
        before = *given[:at], *shape[:dim]
        same = not isinstance(size, int) and not isinstance(shape[dim], int) and size.node.expr == shape[dim].node.expr
        if same and all(isinstance(each, int) for each in before) and prod(given[:at]) == prod(shape[:dim]):
            return {source: at}
    return None
