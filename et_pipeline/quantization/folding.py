"""Scale the inputs of linears for their quantization, and divide what comes before by as much: nothing is added."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from et_pipeline.quantization.torchao_config import quantize_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from et_pipeline.settings import Quantization

AWQ_ROWS = 1024  # of a weight, spread over it, that AWQ's search rounds: rows do not depend on each other
STEPS = 20  # of the exponent that AWQ searches, from 0
#: Linears of one input, and the norm or the linear that makes it.
FOLDS = (
    (("q_proj", "k_proj", "v_proj"), "input_layernorm"),
    (("o_proj",), "v_proj"),
    (("gate_proj", "up_proj"), "post_attention_layernorm"),
    (("down_proj",), "up_proj"),
)


def awq_scales(
    weights: Sequence[torch.Tensor],
    magnitude: torch.Tensor,
    hessian: torch.Tensor,
    rounded: Callable[[torch.Tensor], torch.Tensor],
    tie: Callable[[torch.Tensor], torch.Tensor] = lambda scales: scales,
) -> torch.Tensor:
    """The scales of input channels with which rounding changes the outputs least (Lin et al. 2023, arXiv:2306.00978).

    Tried are the powers 0, 0.05, … 0.95 of the inputs' mean magnitude. Activations count as if they were not rounded.

    Args:
        weights: [outputs, inputs] each, of the linears that read the same inputs.
        magnitude: [inputs], mean of |x| over calibration tokens.
        hessian: [inputs, inputs], the sum of x·xᵀ over them.
        rounded: gives a weight after quantization, as floats.
        tie: makes scales equal that must be.

    Returns:
        [inputs], to multiply the weights' columns with.
    """
    best, least = torch.ones_like(magnitude), float("inf")
    hessian = hessian.to(weights[0].dtype)
    for step in range(STEPS):
        scales = magnitude.pow(step / STEPS).clamp(min=1e-4)
        scales = tie(scales / (scales.max() * scales.min()).sqrt())
        missed = [rounded(weight * scales) / scales - weight for weight in weights]
        loss = sum(((part @ hessian) * part).sum().item() for part in missed)
        if loss < least:
            best, least = scales, loss
    return best


def smoothquant_scales(
    weights: Sequence[torch.Tensor], largest: torch.Tensor, tie: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Share the range of the inputs between them and the weights (Xiao et al. 2022, arXiv:2211.10438), with α = 0.5.

    Args:
        weights: as of `awq_scales`.
        largest: [inputs], the largest |x| over calibration tokens.
        tie: makes scales equal that must be.
    """
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    return tie((largest.clamp(min=1e-5) / columns.clamp(min=1e-5)).sqrt())


def fold(readers: Sequence[Any], before: Any, scales: torch.Tensor, rows: torch.Tensor | None = None) -> None:
    """Multiply the columns of linears and divide what makes their inputs, in place.

    Args:
        readers: the linears.
        before: a norm without bias, or a linear.
        scales: [inputs].
        rows: [outputs of `before`], where they are fewer than `scales`.
    """
    for linear in readers:
        linear.weight = nn.Parameter(linear.weight * scales, requires_grad=False)
    rows = scales if rows is None else rows
    divided = before.weight / (rows[:, None] if before.weight.dim() == 2 else rows)
    before.weight = nn.Parameter(divided, requires_grad=False)
    if getattr(before, "bias", None) is not None:
        before.bias = nn.Parameter(before.bias / rows, requires_grad=False)


def fold_layer(parts: dict[str, Any], calls: Sequence[Callable[[], Any]], q: Quantization, config: Any) -> None:
    """Fold AWQ's or SmoothQuant's scales into a layer, by the inputs that its linears get while none is rounded."""
    tokens = 0
    sums: dict[str, list[torch.Tensor]] = {}

    def add(name: str, _: nn.Module, args: tuple[torch.Tensor]) -> None:
        rows = args[0].flatten(0, -2)
        width, size = rows.shape[1], rows.abs()
        empty = [rows.new_zeros(width, width), rows.new_zeros(width), rows.new_zeros(width)]
        hessian, total, largest = sums.setdefault(name, empty)
        hessian.addmm_(rows.T, rows)
        total += size.sum(0)
        torch.maximum(largest, size.amax(0), out=largest)

    with ExitStack() as hooks:
        for readers, _ in FOLDS:
            hooks.enter_context(parts[readers[0]].register_forward_pre_hook(partial(add, readers[0])))
        for call in calls:
            tokens += call().flatten(0, -2).shape[0]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for readers, before in FOLDS:
        linears = [parts[name] for name in readers]
        hessian, total, largest = sums.pop(readers[0])
        # Several heads read one value head, whose scales they share.
        repeats = linears[0].in_features // parts["v_proj"].out_features if before == "v_proj" else 1

        def heads(scales: torch.Tensor, repeats: int = repeats) -> torch.Tensor:
            return scales.reshape(-1, repeats, size).mean(1, keepdim=True)

        def tie(scales: torch.Tensor, repeats: int = repeats) -> torch.Tensor:
            return heads(scales).expand(-1, repeats, -1).flatten() if repeats > 1 else scales

        weights = [linear.weight for linear in linears]
        if q.transform == "awq":
            few = [weight[:: -(-len(weight) // AWQ_ROWS)] for weight in weights]
            scales = awq_scales(few, total / tokens, hessian, partial(rounded, q=q), tie)
        else:
            scales = smoothquant_scales(weights, largest, tie)
        fold(linears, parts[before], scales, heads(scales).flatten() if repeats > 1 else None)


def rounded(weight: torch.Tensor, q: Quantization) -> torch.Tensor:
    """A weight [outputs, inputs] after quantization, as floats."""
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.in_features = weight.shape[1]
    linear.weight = nn.Parameter(weight, requires_grad=False)
    quantize_module("", linear, q)
    made: Any = linear.weight
    return made.dequantize()
