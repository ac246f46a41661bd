"""compressed-tensors' files: integers packed into words, or as they are."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.prequantized.finder import FLOATS, Finder, Part, in_words
from et_pipeline.checkpoints.prequantized.weight import centred, make_weight, unpack
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
# Ranges of activations that were fixed by calibration, which ours are not.
_STATIC_INPUT = {name: Part((*FLOATS, "I8"), (1,), needed=False) for name in ("input_scale", "input_zero_point")}


def fault(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, in words."""
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        return f"config_groups={groups!r}"
    overall = settings.get("format")
    for group in groups.values():
        form = group.get("format") or overall
        if form not in _FORMATS:
            return f"format={form!r}"
        weights = group.get("weights") or {}
        if weights.get("type", "int") != "int" or weights.get("num_bits") not in (2, 4, 8):
            return f"weights of type {weights.get('type')!r} and num_bits={weights.get('num_bits')!r}"
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        return f"sparsity_config={settings['sparsity_config']!r}"
    # Weights that are rotated for a model that turns its activations at run time.
    return "a transform_config" if (settings.get("transform_config") or {}).get("config_groups") else None


def collect(finder: Finder) -> str:
    """Find the packed weights; returns their form in words."""
    weights = [group["weights"] for group in finder.settings["config_groups"].values()]
    bits = {each["num_bits"] for each in weights}
    _collect_packed(finder, bits)
    _collect_integers(finder, max(bits))
    return " and ".join(sorted({in_words(each["num_bits"], each.get("group_size") or -1) for each in weights}))


def _collect_packed(finder: Finder, bits: set[int]) -> None:
    for stem in finder.stems("weight_packed"):
        rows, words = finder.dimensions(f"{stem}weight_packed", 2)
        if f"{stem}weight_shape" not in finder.layout:
            raise UserError(f"{finder.folder}: tensor {stem}weight_shape is in no safetensors file")
        raw = finder.raw(f"{stem}weight_shape")
        columns = struct.unpack("<2q", raw)[1] if len(raw) == 16 else 0
        used = next((n for n in sorted(bits) if columns > 0 and words == -(-columns * n // 32)), 0)
        if not used or struct.unpack("<2q", raw)[0] != rows:
            raise UserError(
                f"{finder.folder / finder.layout[f'{stem}weight_packed'].file}: tensor {stem}weight_packed has shape "
                f"{[rows, words]}, which does not go with {stem}weight_shape and {sorted(bits)} bits"
            )
        parts = {
            "weight_packed": Part(("I32",), (rows, words)),
            "weight_shape": Part(("I64",), (2,)),
            "weight_scale": Part(FLOATS, (rows, None)),
            "weight_zero_point": Part(("I32",), (-(-rows * used // 32), None), needed=False),
            "weight_g_idx": Part(("I32",), (columns,), needed=False),
            **_STATIC_INPUT,
        }
        finder.add(stem, (rows, columns), parts, partial(_decode_packed, bits=used, columns=columns))


def _collect_integers(finder: Finder, bits: int) -> None:
    for stem in finder.stems("weight_scale"):
        if f"{stem}weight_packed" in finder.layout:
            continue
        if f"{stem}weight" not in finder.layout:
            raise UserError(f"{finder.folder}: tensor {stem}weight is in no safetensors file, but its scale is")
        rows, columns = finder.dimensions(f"{stem}weight", 2)
        scale = finder.layout[f"{stem}weight_scale"].shape
        parts = {
            "weight": Part(("I8",), (rows, columns)),
            "weight_scale": Part(FLOATS, (1,) if scale == (1,) else (rows, None)),
            "weight_zero_point": Part(("I8",), (1,) if scale == (1,) else (rows, None), needed=False),
            "weight_g_idx": Part(("I32",), (columns,), needed=False),
            **_STATIC_INPUT,
        }
        finder.add(stem, (rows, columns), parts, partial(_decode_integers, bits=bits))


def _decode_packed(parts: dict[str, torch.Tensor], bits: int, columns: int) -> torch.Tensor:
    """compressed-tensors' pack-quantized: zero points are packed along the outputs."""
    integers = centred(unpack(parts["weight_packed"], bits)[:, :columns].contiguous(), bits)
    zeros = parts.get("weight_zero_point")
    if zeros is not None:
        zeros = centred(unpack(zeros.T, bits)[:, : len(integers)].T.contiguous(), bits)
    return make_weight(integers, parts["weight_scale"], zeros, parts.get("weight_g_idx"), bits)


def _decode_integers(parts: dict[str, torch.Tensor], bits: int) -> torch.Tensor:
    """compressed-tensors' int-quantized."""
    rows = len(parts["weight"])
    scale, zeros = (
        None if part is None else part.reshape(-1, 1).expand(rows, 1) if part.dim() == 1 else part
        for part in (parts["weight_scale"], parts.get("weight_zero_point"))
    )
    assert scale is not None
    return make_weight(parts["weight"], scale, zeros, parts.get("weight_g_idx"), bits)
