"""bitsandbytes' files: int8, NF4 and FP4."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.prequantized.finder import FLOATS, Finder, Part
from et_pipeline.checkpoints.prequantized.weight import check_scales, make_weight
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

_STATE = "weight.quant_state.bitsandbytes__"


def collect(finder: Finder) -> str:
    """Find the packed weights; returns their form in words."""
    words = "int8"
    for stem in finder.stems("SCB"):
        weight = f"{stem}weight"
        if weight not in finder.layout:
            raise UserError(f"{finder.folder}: tensor {weight} is in no safetensors file, but {stem}SCB is")
        rows, columns = finder.dimensions(weight, 2)
        parts = {
            "weight": Part(("I8",), (rows, columns)),
            "SCB": Part(("F32",), (rows,)),
            "weight_format": Part(("U8",), (), needed=False),
        }
        finder.add(stem, (rows, columns), parts, _decode_int8)
    for name in [name for name in finder.layout if _STATE in name]:
        stem, kind = name.split(_STATE)
        words = kind.upper()
        shape, state = _state(finder, name)
        blocks = -(-math.prod(shape) // state["blocksize"])
        nested = f"{stem}weight.nested_absmax" in finder.layout
        parts = {
            f"{_STATE}{kind}": Part(("U8",), (None,)),
            "weight": Part(("U8", *FLOATS), (None, 1)),
            "weight.quant_map": Part(("F32",), (16,)),
            "weight.absmax": Part(("U8",) if nested else ("F32",), (blocks,)),
        }
        if nested:
            parts["weight.nested_absmax"] = Part(("F32",), (-(-blocks // state["nested_blocksize"]),))
            parts["weight.nested_quant_map"] = Part(("F32",), (256,))
        finder.add(stem, shape, parts, partial(_decode_4bit, shape=shape, state=state))
    return words


def _state(finder: Finder, name: str) -> tuple[tuple[int, int], dict[str, Any]]:
    """The weight's shape and what bitsandbytes needs to know beside its tensors; JSON in a tensor of its own."""
    nested = f"{name.split('.quant_state')[0]}.nested_absmax" in finder.layout
    wanted = {"blocksize": int} | ({"nested_blocksize": int, "nested_offset": float} if nested else {})
    try:
        state = json.loads(finder.raw(name))
        rows, columns = state["shape"]
        sound = all(type(n) is int and n > 0 for n in (rows, columns, state["blocksize"]))
        sound = sound and all(isinstance(state[key], kind) for key, kind in wanted.items())
        sound = sound and (not nested or state["nested_blocksize"] > 0)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{finder.folder / finder.layout[name].file} is damaged: tensor {name} makes no sense")
    return (rows, columns), state


def _decode_int8(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """LLM.int8()'s (Dettmers et al. 2022, arXiv:2208.07339): what is 127 steps, per output."""
    if int(parts.get("weight_format", 0)):
        raise ValueError("its weight_format is not 0, that of rows")
    return make_weight(parts["weight"], parts["SCB"][:, None] / 127, None, None, 8)


def _decode_4bit(parts: dict[str, torch.Tensor], shape: tuple[int, int], state: dict[str, Any]) -> torch.Tensor:
    """NF4 (Dettmers et al. 2023, arXiv:2305.14314) and FP4: a table's values, times the largest of each block."""
    import torch

    count, size = math.prod(shape), state["blocksize"]
    codes = parts["weight"].flatten().view(torch.uint8)
    if len(codes) != -(-count // 2):
        raise ValueError(f"it has {len(codes)} bytes instead of {-(-count // 2)}")
    largest = parts["weight.absmax"]
    if "weight.nested_absmax" in parts:  # those are 8 bits themselves
        scales = parts["weight.nested_absmax"].repeat_interleave(state["nested_blocksize"])[: len(largest)]
        largest = parts["weight.nested_quant_map"][largest.int()] * scales + state["nested_offset"]
    check_scales(largest)
    nibbles = torch.stack([codes >> 4, codes & 15], -1).flatten()[:count]
    values = parts["weight.quant_map"][nibbles.int()]
    return values.mul_(largest.repeat_interleave(size)[:count]).reshape(shape)
