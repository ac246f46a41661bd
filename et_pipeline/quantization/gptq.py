"""GPTQ: choose a linear's integers one input after the other, each making up for the errors of those before it."""

from __future__ import annotations

import torch

BLOCK = 32  # inputs whose errors reach the inputs behind them together
DAMPING = 0.01  # of the mean diagonal, the paper's
SHRINKS = tuple(1 - step / 20 for step in range(11))  # of the scale that clips nothing: 1.0 to 0.5
COLUMNS = 1024  # of an inverse at a time
ROWS = 1024  # of outputs at a time, which do not depend on each other
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
        return torch.eye(size, device=hessian.device)
    hessian.diagonal().add_(DAMPING * mean)
    # With the inputs in reverse, H = LLᵀ gives U = L⁻¹, in reverse too: one inversion less than the paper's. What is
    # transposed has the layout of the library that computes it, which then needs no memory of its own.
    reverse = hessian.flip(0, 1)
    lower = torch.linalg.cholesky(reverse, out=hessian.mT)
    del reverse
    u = torch.zeros(size, size, device=hessian.device)
    for start in range(0, size, COLUMNS):
        rest, count = size - start, min(COLUMNS, size - start)
        unit = torch.eye(rest, count, dtype=torch.float64, device=hessian.device)
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
    columns = weight.T.contiguous()  # one input after the other is computed with
    if group_size:
        integers, scales, _ = _run(columns, u, group_size, None, scale_dtype)
        return integers, scales
    tried = torch.cat([(_no_clipping(columns) * shrink).to(scale_dtype) for shrink in SHRINKS])
    integers, scales, error = _run(columns.repeat(1, len(SHRINKS)), u, weight.shape[1], tried, scale_dtype)
    best = error.reshape(len(SHRINKS), -1).argmin(0) * len(weight) + torch.arange(len(weight), device=weight.device)
    return integers[best], scales[best]


def _run(
    left: torch.Tensor, u: torch.Tensor, group_size: int, scale: torch.Tensor | None, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass over the inputs of a weight [inputs, outputs], whose memory is used for other numbers.

    Returns:
        Integers, scales, and each output's error, tr((W-Q)H(W-Q)ᵀ) in the paper.
    """
    inputs, outputs = left.shape
    integers = left.new_empty(inputs, outputs, dtype=torch.int8)
    scales = []
    error = left.new_zeros(outputs)
    diagonal: list[float] = u.diagonal().cpu().tolist()
    # A group's scale is chosen when all errors before it have arrived.
    block = BLOCK if group_size % BLOCK == 0 or scale is not None else group_size * max(1, BLOCK // group_size)
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors = left.new_empty(end - start, outputs)
        for at in range(start, end):
            if at % group_size == 0:
                group = slice(at, at + group_size)
                chosen = _search(left[group], u.diagonal()[group], scale_dtype) if scale is None else scale
                scales.append(chosen)
                step = chosen.float()
            column, missed = left[at], errors[at - start]
            rounded = (column / step).round_().clamp_(LOWEST, HIGHEST)
            integers[at] = rounded
            torch.sub(column, rounded.mul_(step), out=missed).div_(diagonal[at])
            left[at + 1 : end].addr_(u[at, at + 1 : end], missed, alpha=-1)
        left[end:].addmm_(u[start:end, end:].T, errors, alpha=-1)
        error += errors.square().sum(0)
    return integers.T.contiguous(), torch.stack(scales, 1), error


def _no_clipping(columns: torch.Tensor) -> torch.Tensor:
    """The smallest scale [outputs] whose steps reach the largest of some weights [inputs, outputs]."""
    scale = torch.maximum(columns.amax(0) / HIGHEST, columns.amin(0) / LOWEST)
    return scale.clamp_min(torch.finfo(torch.float32).eps)


def _search(columns: torch.Tensor, diagonal: torch.Tensor, scale_dtype: torch.dtype) -> torch.Tensor:
    """The one of `SHRINKS` scales [outputs] that rounds a group [inputs, outputs] with the least error, as GPTQ
    weighs it.
    """
    whole = _no_clipping(columns)
    best = whole.to(scale_dtype)
    least = torch.full_like(whole, float("inf"))
    for shrink in SHRINKS:
        tried = (whole * shrink).to(scale_dtype)
        step = tried.float()
        missed = (columns / step).round_().clamp_(LOWEST, HIGHEST).mul_(step).sub_(columns)
        loss = missed.div_(diagonal[:, None]).square_().sum(0)
        best, least = torch.where(loss < least, tried, best), torch.minimum(loss, least)
    return best
