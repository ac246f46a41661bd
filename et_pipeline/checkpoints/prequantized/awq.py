"""AWQ's files (Lin et al. 2023, arXiv:2306.00978): outputs are packed, and out of order within a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.prequantized.finder import FLOATS, Finder, Part, in_words
from et_pipeline.checkpoints.prequantized.weight import centred, make_weight, unpack

if TYPE_CHECKING:
    import torch

_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # in which nibble of a word a column lies, from the lowest


def fault(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, in words."""
    version = settings.get("version") or settings.get("format") or "gemm"
    if settings.get("bits") != 4:
        return f"bits={settings.get('bits')!r}"
    return None if str(version).lower() == "gemm" else f"version={version!r}"


def collect(finder: Finder) -> str:
    """Find the packed weights; returns their form in words."""
    size = finder.settings.get("group_size") or -1
    for stem in finder.stems("qweight"):
        columns, words = finder.dimensions(f"{stem}qweight", 2)
        groups = columns // size if size > 0 else 1
        parts = {
            "qweight": Part(("I32",), (columns, words)),
            "qzeros": Part(("I32",), (groups, words)),
            "scales": Part(FLOATS, (groups, 8 * words)),
        }
        finder.add(stem, (8 * words, columns), parts, _decode)
    return in_words(4, size)


def _decode(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    def in_order(words: torch.Tensor) -> torch.Tensor:
        return unpack(words, 4).unflatten(-1, (-1, 8))[..., _ORDER].flatten(-2).T.contiguous()

    integers, zeros = (centred(in_order(parts[name]), 4) for name in ("qweight", "qzeros"))
    return make_weight(integers, parts["scales"].T, zeros, None, 4)
