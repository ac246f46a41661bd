"""GPTQ's files (Frantar et al. 2022, arXiv:2210.17323): inputs are packed along the first dimension."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.prequantized.finder import FLOATS, Finder, Part, in_words
from et_pipeline.checkpoints.prequantized.weight import centred, make_weight, unpack

if TYPE_CHECKING:
    import torch


def fault(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, in words."""
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if settings.get("bits") not in (2, 4, 8):
        return f"bits={settings.get('bits')!r}"
    if form not in ("gptq", "gptq_v2"):
        return f"checkpoint_format={form!r}"
    return next((f"{key}={settings[key]!r}" for key in ("is_marlin_format", "dynamic") if settings.get(key)), None)


def collect(finder: Finder) -> str:
    """Find the packed weights; returns their form in words."""
    bits, size = finder.settings["bits"], finder.settings.get("group_size") or -1
    form = finder.settings.get("checkpoint_format") or finder.settings.get("format")
    for stem in finder.stems("qweight"):
        words, rows = finder.dimensions(f"{stem}qweight", 2)
        columns = words * 32 // bits
        groups = -(-columns // size) if size > 0 else 1
        parts = {
            "qweight": Part(("I32",), (words, rows)),
            "qzeros": Part(("I32",), (groups, -(-rows * bits // 32))),
            "scales": Part(FLOATS, (groups, rows)),
            "g_idx": Part(("I32",), (columns,), needed=False),
        }
        # The first form stores zero points less one.
        decode = partial(_decode, bits=bits, size=size if size > 0 else columns, less=form != "gptq_v2")
        finder.add(stem, (rows, columns), parts, decode)
    return in_words(bits, size)


def _decode(parts: dict[str, torch.Tensor], bits: int, size: int, less: bool) -> torch.Tensor:
    import torch

    integers = centred(unpack(parts["qweight"].T, bits), bits)
    zeros = unpack(parts["qzeros"], bits)[:, : len(integers)].T
    if less:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    index = parts.get("g_idx")
    index = torch.arange(integers.shape[1]) // size if index is None else index
    return make_weight(integers, parts["scales"].T, centred(zeros, bits), index, bits)
