"""What packed integers become: our own form of quantized weights where that can hold them, and floats otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST = 128.0  # magnitude of an integer


def floats(weight: Any, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of a weight as float32, quantized or not."""
    if not hasattr(weight, "qdata"):
        return weight[rows].float()
    size = weight.block_size[-1]
    integers = weight.qdata[rows].float().unflatten(1, (-1, size))
    return ((integers - weight.zero_point[rows, :, None]) * weight.scale[rows, :, None].float()).flatten(1)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned integers of `bits` bits, the lowest first, from the last dimension of int32 words; uint8."""
    import torch

    pieces = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return ((pieces.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


def centred(unsigned: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers from 0 on as int8 around 0."""
    import torch

    return (unsigned - (1 << (bits - 1))).view(torch.int8)  # wraps around, as two's complement does


def make_weight(
    integers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, index: torch.Tensor | None, bits: int
) -> torch.Tensor:
    """What `decode` returns, (integers - zeros) * scales.

    Args:
        integers: [outputs, inputs] int8.
        scales: [outputs, groups].
        zeros: as scales, or None for 0.
        index: [inputs], each one's group; None if groups are equally many inputs one after the other.
        bits: of the integers.
    """
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    width, groups = integers.shape[1], scales.shape[1]
    check_scales(scales)
    if zeros is not None and zeros.shape != scales.shape:
        raise ValueError(f"it has {list(scales.shape)} scales, but {list(zeros.shape)} zero points")
    if index is not None and (int(index.min()) < 0 or int(index.max()) >= groups):
        raise ValueError(f"its g_idx names groups outside of the {groups} that there are")
    if index is None and width % groups:
        raise ValueError(f"its {width} inputs are no whole number of {groups} groups")
    if index is not None and width % groups == 0 and torch.equal(index, _neighbours(width, groups).to(index.dtype)):
        index = None
    scales = scales.float()
    if index is None and (zeros is None or not zeros.any()):
        empty = scales == 0
        if bool(empty.any()):
            integers = integers.masked_fill(empty.repeat_interleave(width // groups, 1), 0)
            scales = scales.masked_fill(empty, 1)
        return IntxUnpackedToInt8Tensor(
            qdata=integers.contiguous(),
            scale=scales.contiguous(),
            zero_point=torch.zeros(scales.shape, dtype=torch.int8),
            target_dtype=torch.int8 if bits > 4 else getattr(torch, "int4"),  # noqa: B009  not in torch's stubs
            block_size=(1, width // groups),
            dtype=torch.float32,
            activation_quantization=None,
        )
    index = _neighbours(width, groups) if index is None else index.long()
    values = integers.float()
    if zeros is not None:
        values -= zeros.float()[:, index]
    return values.mul_(scales[:, index])


def _neighbours(width: int, groups: int) -> torch.Tensor:
    import torch

    return torch.arange(width) // (width // groups)


def check_scales(scales: torch.Tensor) -> None:
    """Refuse a NaN and an infinity, with a ValueError."""
    if not bool(scales.isfinite().all()):
        raise ValueError("its scales are not all numbers")
