"""Scale the inputs of linears for their quantization, and divide what comes before by as much: nothing is added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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
        linear.weight.data = linear.weight * scales
    rows = scales if rows is None else rows
    before.weight.data = before.weight / (rows[:, None] if before.weight.dim() == 2 else rows)
    if getattr(before, "bias", None) is not None:
        before.bias.data = before.bias / rows
