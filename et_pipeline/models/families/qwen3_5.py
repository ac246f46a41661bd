"""Qwen3.5: its rotary embedding has a position for time, height and width, which are the same in a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt(model: PreTrainedModel) -> None:
    """Take the three for one, instead of writing each into its place at every call."""
    rotary: Any = model.get_decoder().rotary_emb

    def one(angles: torch.Tensor) -> torch.Tensor:
        return torch.cat((angles[0], angles[0]), -1)

    rotary.recomposition_frequencies = one
