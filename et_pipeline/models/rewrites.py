"""Exact rewrites that keep a decoder's graph in one piece for a delegate.

A delegate takes linears, products and sums; a mean, a slice-and-concatenate or a transpose in between cuts the graph
(25 delegate calls instead of 6 for two Llama layers). Nothing here is left behind: modules and transformers' own
functions are patched inside `delegate_friendly` only, and each patch is used only where it computes the same numbers as
the code that it replaces, so an unknown family keeps its own code instead of getting a wrong one.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional
from transformers.activations import GELUTanh

from et_pipeline.models.last_token import only_last

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Graph
    from transformers import PreTrainedModel

_CONSTANTS = "_export_constants"


@contextmanager
def delegate_friendly(model: PreTrainedModel) -> Iterator[None]:
    """Within the context the model computes the same with operators that delegates take.

    - RMSNorm's mean is a linear with weights 1/n (RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467).
    - LayerNorm's mean and variance likewise (Ba et al. 2016, arXiv:1607.06450).
    - Rotary embedding's half rotation is a linear with a signed permutation, and runs before heads and positions are
      swapped, so that transposes cancel (rotary: Su et al. 2021, arXiv:2104.09864).
    - GELU's approximation by tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415) is written out: XNNPACK computes the
      exact GELU for both, which moves logits of two layers of Gemma by 4e-4 of the greatest.
    - Embeddings have no padding index, which torch needs for training only and which blocks quantized lookup.
    """
    constants = nn.Module()  # registered, because a tensor in a closure fails export
    model.add_module(_CONSTANTS, constants)
    head_dims = _head_dims(model)
    for size in head_dims:
        _constant(constants, f"mean_{size}", torch.full((1, size), 1.0 / size))
    try:
        with ExitStack() as patches:
            families = set()
            for name, module in list(model.named_modules()):
                for buffer, value in module.named_buffers(recurse=False):
                    if buffer.endswith("inv_freq"):  # one frequency per pair of rotated dimensions
                        width = 2 * value.shape[-1]
                        for head_dim in head_dims:
                            _rotation(constants, width, max(width, head_dim))
                if type(module).__name__.endswith("RMSNorm"):
                    forward = _norm_as_linear(constants, name, module)
                    if forward is not None:
                        patches.enter_context(mock.patch.object(module, "forward", forward))
                if type(module) is nn.LayerNorm:
                    normalise = _layer_norm_as_linear(constants, module)
                    patches.enter_context(mock.patch.object(module, "forward", normalise))
                if isinstance(module, GELUTanh):
                    patches.enter_context(mock.patch.object(module, "forward", _gelu_tanh))
                if isinstance(module, nn.Embedding):
                    patches.enter_context(mock.patch.object(module, "padding_idx", None))
                families.add(sys.modules[type(module).__module__])
            for family in sorted(families, key=lambda module: module.__name__):
                rope = getattr(family, "apply_rotary_pos_emb", None)
                if rope is None or not family.__name__.startswith("transformers."):
                    continue
                for same, as_linear in ((_same_rope, _rope_as_linear), (_same_rope_of_one, _rope_of_one_as_linear)):
                    if same(rope):
                        replacement = as_linear(constants, rope)
                        patches.enter_context(mock.patch.object(family, "apply_rotary_pos_emb", replacement))
                        break
            yield
    finally:
        delattr(model, _CONSTANTS)


def _head_dims(model: PreTrainedModel) -> set[int]:
    """Numbers of a head, of each kind of layer."""
    config = model.config.get_text_config()
    if "per_layer_config" in config.to_dict():
        return {each.head_dim for each in config.per_layer_config}
    return {getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads}


def _constant(constants: nn.Module, name: str, value: torch.Tensor) -> str:
    if not hasattr(constants, name):
        constants.register_buffer(name, value, persistent=False)
    return name


def _norm_as_linear(constants: nn.Module, name: str, module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """The forward of an RMSNorm with its mean as a linear, or None where that is not what the module computes."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None and getattr(module, "with_scale", None) is False and isinstance(eps, float):
        return _bare_norm_as_linear(constants, module, eps)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    size = weight.shape[0]
    mean = _constant(constants, f"mean_{size}", torch.full((1, size), 1.0 / size))
    sample = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    expected = module(sample)
    # Gemma stores the distance of the factor from one; which of the two it is, its own forward tells.
    for offset in (0.0, 1.0):
        factor = f"factor_{name.replace('.', '_')}" if offset else None

        def forward(x: torch.Tensor, factor: str | None = factor) -> torch.Tensor:
            root = torch.rsqrt(functional.linear(x * x, getattr(constants, mean)) + eps)
            return x * root * (weight if factor is None else getattr(constants, factor))

        if factor is not None:
            _constant(constants, factor, weight.detach() + offset)
        if torch.allclose(forward(sample), expected, rtol=1e-5, atol=1e-6):
            return forward
    return None


def _bare_norm_as_linear(constants: nn.Module, module: nn.Module, eps: float) -> Callable[..., torch.Tensor] | None:
    """The same of an RMSNorm without weights, which does not say over how many numbers it goes: those of a head."""
    original = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        mean = getattr(constants, f"mean_{x.shape[-1]}", None)
        return original(x) if mean is None else x * torch.rsqrt(functional.linear(x * x, mean) + eps)

    size = next(int(name.removeprefix("mean_")) for name in dict(constants.named_buffers()) if name.startswith("mean_"))
    sample = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    return forward if torch.allclose(forward(sample), original(sample), rtol=1e-5, atol=1e-6) else None


def _layer_norm_as_linear(constants: nn.Module, module: nn.LayerNorm) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of a LayerNorm over the last dimension with its mean and variance as linears."""
    (size,) = module.normalized_shape
    mean = _constant(constants, f"mean_{size}", torch.full((1, size), 1.0 / size))

    def forward(x: torch.Tensor) -> torch.Tensor:
        weights = getattr(constants, mean)
        centred = x - functional.linear(x, weights)
        normal = centred * torch.rsqrt(functional.linear(centred * centred, weights) + module.eps)
        normal = normal if module.weight is None else normal * module.weight
        return normal if module.bias is None else normal + module.bias

    return forward


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """What `transformers.activations.GELUTanh` computes."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + torch.tanh(inner))


def _rope_as_linear(
    constants: nn.Module, original: Callable[..., tuple[torch.Tensor, torch.Tensor]]
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    padded: dict[str, Any] = {"of": None}  # every layer gets the same angles

    def rope(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width, whole = cos.shape[-1], q.shape[-1]
        rotation = getattr(constants, f"rotation_{width}_of_{whole}", None)
        if rotation is None:
            return original(q, k, cos, sin, *args, **kwargs)
        if width != whole:  # partial rotary embedding: the rest is turned by nothing, instead of cut off and put back
            if padded["of"] is not cos:
                rest = (0, whole - width)
                padded.update(of=cos, cos=functional.pad(cos, rest, value=1.0), sin=functional.pad(sin, rest))
            cos, sin = padded["cos"], padded["sin"]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)  # [1, S, 1, head dim]

        def rotate(x: torch.Tensor) -> torch.Tensor:
            x = x.transpose(1, 2)  # [1, S, heads, head dim]
            return (x * cos + functional.linear(x, rotation) * sin).transpose(1, 2)

        return rotate(q), rotate(k)

    return rope


def _rope_of_one_as_linear(constants: nn.Module, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of queries or keys alone, [1, S, heads, head dim], as Gemma 3n and Gemma 4 have it."""

    def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1) -> torch.Tensor:
        rotation = getattr(constants, f"rotation_{cos.shape[-1]}_of_{x.shape[-1]}", None)
        if rotation is None or unsqueeze_dim != 2:
            return original(x, cos, sin, unsqueeze_dim)
        return x * cos.unsqueeze(2) + functional.linear(x, rotation) * sin.unsqueeze(2)

    return rope


def _rotation(constants: nn.Module, width: int, whole: int) -> None:
    """Register the matrix R with linear(x, R) = -second half, first half and zeros, of the first `width` of x."""
    half = width // 2
    matrix = torch.zeros(whole, whole)
    matrix[:half, half:width] = -torch.eye(half)
    matrix[half:width, :half] = torch.eye(half)
    _constant(constants, f"rotation_{width}_of_{whole}", matrix)


def _same_rope(original: Callable[..., Any]) -> bool:
    """Whether a family's rotary function is the usual half rotation of [1, heads, S, head dim], whole or in part."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 3, 8, generator=generator), torch.randn(1, 2, 3, 8, generator=generator)
    for width in (8, 4):
        angles = torch.randn(1, 3, width // 2, generator=generator).repeat(1, 1, 2)
        constants = nn.Module()
        _rotation(constants, width, 8)
        try:
            expected = original(q, k, angles.cos(), angles.sin())
            found = _rope_as_linear(constants, original)(q, k, angles.cos(), angles.sin())
        except Exception:  # another signature, which ends in any way: another kind of rotary embedding
            return width != 8  # without a part that stays, the family never asks for one
        if not isinstance(expected, tuple) or not all(
            torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(expected, found, strict=True)
        ):
            return False
    return True


def _same_rope_of_one(original: Callable[..., Any]) -> bool:
    """Whether a family's rotary function is the usual half rotation of all of [1, S, heads, head dim]."""
    generator = torch.Generator().manual_seed(0)
    x, angles = torch.randn(1, 3, 4, 8, generator=generator), torch.randn(1, 3, 4, generator=generator).repeat(1, 1, 2)
    constants = nn.Module()
    _rotation(constants, 8, 8)
    arguments = (x, angles.cos(), angles.sin(), 2)
    try:
        expected = original(*arguments)
    except Exception:  # a function of other arguments ends in any way: Cohere's takes the number for its sines
        return False
    found = _rope_of_one_as_linear(constants, original)(*arguments)
    return isinstance(expected, torch.Tensor) and torch.allclose(expected, found, rtol=1e-5, atol=1e-6)


def clean_graph(program: ExportedProgram) -> None:
    """Edit a graph in place so that a delegate takes more of it; it computes the same.

    Transpose pairs go, outputs that are joined and at once taken apart again stay apart, what only the last token needs
    is computed for it alone, and a view's one symbolic size is written as -1.
    """
    from executorch.extension.llm.export.export_passes import RemoveRedundantTransposes

    module = program.graph_module
    _keep_apart(module.graph)
    only_last(module)
    RemoveRedundantTransposes().call(module)
    views = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default)
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in views:
            node.args = (node.args[0], infer_symbolic(node.args[1]))
    # An assertion on two sizes in a branch is written with an operator that torch cannot save and ExecuTorch not read.
    for branch in (each for each in module.modules() if isinstance(each, GraphModule)):
        for node in branch.graph.find_nodes(op="call_function", target=torch.sym_sum):
            node.target, node.args = operator.add, tuple(node.args[0])
        branch.recompile()
    module.graph.eliminate_dead_code()
    module.recompile()


def _keep_apart(graph: Graph) -> None:
    """Where a slice or a chunk of a concatenation is one of its inputs, use the input."""
    aten = torch.ops.aten
    joints: list[Any] = [node for node in graph.nodes if node.target is aten.cat.default]
    for joint in joints:
        last = joint.meta["val"].dim() - 1
        if joint.args[1:] not in ((-1,), (last,)):
            continue
        parts, end = {}, 0
        for part in joint.args[0]:
            start, end = end, end + part.meta["val"].shape[-1]
            parts[start, end] = part
        for user in list(joint.users):
            if user.target is aten.slice.Tensor and user.args[1] in (-1, last) and len(user.args) < 5:
                start, stop = (*user.args[2:], None, None)[:2]
                taken = [(user, start or 0, end if stop is None else min(stop, end))]
            elif user.target in (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default):
                ends = list(accumulate(piece.shape[-1] for piece in user.meta["val"]))
                along_last = ends[-1] == end and (*user.args[2:], 0)[0] in (-1, last)
                taken = [(n, (0, *ends)[n.args[1]], ends[n.args[1]]) for n in user.users] if along_last else []
            else:
                taken = []
            for node, start, stop in taken:
                if (start, stop) in parts:
                    node.replace_all_uses_with(parts[start, stop])


def infer_symbolic(shape: Any) -> list[Any]:
    """Replace the only size of a view that is not a number by -1; anything else stays as it is."""
    sizes = list(shape)
    symbolic = [index for index, size in enumerate(sizes) if not isinstance(size, int)]
    if len(symbolic) == 1 and -1 not in [size for size in sizes if isinstance(size, int)]:
        sizes[symbolic[0]] = -1
    return sizes
