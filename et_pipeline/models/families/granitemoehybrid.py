"""Granite 4: one linear for the gate, the convolution's input and the steps of a layer of Mamba-2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from et_pipeline.models.fused import FusedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt(model: PreTrainedModel) -> None:
    """Split the fused linears of a skeleton."""
    layers: Any = model.get_decoder().layers
    for layer in layers:
        mixer = getattr(layer, "mamba", None)
        if mixer is not None:
            parts = {"gate": mixer.intermediate_size, "mixed": mixer.conv_dim, "steps": mixer.num_heads}
            mixer.in_proj = FusedLinear(parts, mixer.in_proj)
