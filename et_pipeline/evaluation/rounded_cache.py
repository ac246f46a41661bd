"""What a model computes from keys and values that a smaller cache gives back, in plain arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

if TYPE_CHECKING:
    from et_pipeline.settings import KvCache


def rounded(values: torch.Tensor, kind: KvCache) -> torch.Tensor:
    """What a cache of a kind of `model.kv_cache` gives back of `values`; of int8, with a scale and a zero per row."""
    if kind != "int8":
        return values.to(torch.float16).float() if kind == "fp16" else values
    low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = (-128 - low / scale).round()
    return (((values / scale).round() + zero).clamp(-128, 127) - zero) * scale


class RoundedCache(DynamicCache):
    """transformers' own cache, of rounded keys and values."""

    def __init__(self, config: Any, kind: KvCache) -> None:
        super().__init__(config=config)
        self.kind: KvCache = kind

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the rounded ones, and hand all to the attention."""
        keys, values = (rounded(states, self.kind) for states in (key_states, value_states))
        return super().update(keys, values, *args, **kwargs)
