"""LFM2, LFM2.5: one linear for both gates of a convolution and for what goes through it. Apart, nothing is sliced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from et_pipeline.models.fused import FusedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt(model: PreTrainedModel) -> None:
    """Split the fused linears of a skeleton."""
    layers: Any = model.get_decoder().layers
    for layer in layers:
        if not layer.is_attention_layer:
            parts = dict.fromkeys(("before", "after", "x"), layer.conv.in_proj.out_features // 3)
            layer.conv.in_proj = FusedLinear(parts, layer.conv.in_proj)
