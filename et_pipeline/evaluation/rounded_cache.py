"""What a model computes from keys and values that a smaller cache gives back, in plain arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

if TYPE_CHECKING:
    from et_pipeline.settings import KvCache


def rounded(states: torch.Tensor, kind: KvCache, zero: bool) -> torch.Tensor:
    """What a cache of a kind of `model.kv_cache` gives back of `states`; of int8, with a scale per row, and a zero."""
    if kind != "int8":
        return states.to(torch.float16).float() if kind == "fp16" else states
    if not zero:
        scale = (states.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
        return (states / scale).round() * scale
    low, high = states.amin(-1, keepdim=True).clamp(max=0), states.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zeros = (-128 - low / scale).round()
    return (((states / scale).round() + zeros).clamp(-128, 127) - zeros) * scale


class RoundedCache(DynamicCache):
    """transformers' own cache, of rounded keys and values."""

    def __init__(self, config: Any, kind: KvCache) -> None:
        super().__init__(config=config)
        self.kind: KvCache = kind

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the rounded ones, and hand all to the attention."""
        keys, values = rounded(key_states, self.kind, zero=True), rounded(value_states, self.kind, zero=False)
        return super().update(keys, values, *args, **kwargs)
