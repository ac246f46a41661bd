"""GPTQ: choose a linear's integers one input after the other, each making up for the errors of those before it."""

from __future__ import annotations

import torch

BLOCK = 128  # inputs whose errors reach the inputs behind them together
DAMPING = 0.01  # of the mean diagonal, the paper's
SHRINKS = tuple(1 - step / 20 for step in range(11))  # of the scale that clips nothing: 1.0 to 0.5
COLUMNS = 1024  # of an inverse at a time
ROWS = 256  # at a time, each with every one of SHRINKS: rows do not depend on each other
LOWEST, HIGHEST = -8, 7


def error_weights(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with H⁻¹ = UᵀU, of a Hessian damped as in the paper.

    Args:
        hessian: [inputs, inputs] float64, the sum of x·xᵀ over calibration tokens; a factor of it changes nothing. Its
            memory is used for other numbers.

    Returns:
        [inputs, inputs] float32.
    """
    size, mean = len(hessian), hessian.diagonal().mean()
    if not mean > 0:  # no token reached it: plain rounding
        return torch.eye(size)
    hessian.diagonal().add_(DAMPING * mean)
    # With the inputs in reverse, H = LLᵀ gives U = L⁻¹, in reverse too: one inversion less than the paper's. What is
    # transposed has the layout of the library that computes it, which then needs no memory of its own.
    reverse = hessian.flip(0, 1)
    lower = torch.linalg.cholesky(reverse, out=hessian.mT)
    del reverse
    u = torch.zeros(size, size)
    for start in range(0, size, COLUMNS):
        rest, count = size - start, min(COLUMNS, size - start)
        unit = torch.eye(rest, count, dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(lower[start:, start:], unit, upper=False)
        u[:rest, rest - count : rest] = inverse.flip(0, 1)
    return u


def gptq(
    weight: torch.Tensor, u: torch.Tensor, group_size: int, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight to symmetric 4 bits by GPTQ (Frantar et al. 2022, arXiv:2210.17323).

    A group's scale is chosen when its turn comes, from the weights as the errors before it have left them. With one
    scale per output channel, each channel keeps the one of `SHRINKS` with which its whole run ends best.

    Args:
        weight: [outputs, inputs].
        u: [inputs, inputs] float32, of `error_weights`.
        group_size: weights per scale; divides the inputs. 0 for one scale per output channel.
        scale_dtype: scales are rounded to it before any integer is chosen.

    Returns:
        Integers [outputs, inputs] int8, and scales [outputs, groups].
    """
    found = [_rows(rows.float(), u, group_size, scale_dtype) for rows in weight.split(ROWS)]
    return torch.cat([integers for integers, _ in found]), torch.cat([scales for _, scales in found])


def _rows(
    weight: torch.Tensor, u: torch.Tensor, group_size: int, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    if group_size:
        integers, scales, _ = _run(weight, u, group_size, None, scale_dtype)
        return integers, scales
    tried = torch.cat([(_no_clipping(weight) * shrink).to(scale_dtype) for shrink in SHRINKS])
    integers, scales, error = _run(weight.repeat(len(SHRINKS), 1), u, weight.shape[1], tried, scale_dtype)
    best = error.reshape(len(SHRINKS), -1).argmin(0) * len(weight) + torch.arange(len(weight))
    return integers[best], scales[best]


def _run(
    weight: torch.Tensor, u: torch.Tensor, group_size: int, scale: torch.Tensor | None, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass over the inputs; returns integers, scales and each row's error, tr((W-Q)H(W-Q)ᵀ) in the paper."""
    left = weight.clone()
    integers = torch.empty_like(weight, dtype=torch.int8)
    scales = []
    error = weight.new_zeros(len(weight))
    inputs = weight.shape[1]
    block = BLOCK if scale is not None else group_size * max(1, BLOCK // group_size)
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors = torch.empty_like(left[:, start:end])
        for at in range(start, end):
            if at % group_size == 0:
                group = slice(at, at + group_size)
                chosen = _search(left[:, group], u.diagonal()[group], scale_dtype) if scale is None else scale
                scales.append(chosen)
                step = chosen.float()
            column = left[:, at]
            integers[:, at] = (column / step).round().clamp(LOWEST, HIGHEST)
            missed = (column - integers[:, at] * step) / u[at, at]
            left[:, at + 1 : end] -= missed[:, None] * u[at, at + 1 : end]
            errors[:, at - start] = missed
        left[:, end:] -= errors @ u[start:end, end:]
        error += errors.square().sum(1)
    return integers, torch.stack(scales, 1), error


def _no_clipping(weight: torch.Tensor) -> torch.Tensor:
    """The smallest scale [outputs] whose steps reach each row's largest weights."""
    scale = torch.maximum(weight.amax(1) / HIGHEST, weight.amin(1) / LOWEST)
    return scale.clamp_min(torch.finfo(torch.float32).eps)


def _search(weight: torch.Tensor, diagonal: torch.Tensor, scale_dtype: torch.dtype) -> torch.Tensor:
    """The one of `SHRINKS` scales [outputs] that rounds a group with the least error, as GPTQ weighs it."""
    whole = _no_clipping(weight)
    tried = torch.stack([(whole * shrink).to(scale_dtype) for shrink in SHRINKS])
    step = tried.float()[..., None]
    missed = weight - (weight / step).round().clamp(LOWEST, HIGHEST) * step
    best = (missed / diagonal).square().sum(-1).argmin(0)
    return tried.gather(0, best[None])[0]
