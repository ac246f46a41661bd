"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: one linear for query, key and value, and one for gate and up.

Apart, each has scales and a delegate's kernel of its own and nothing is sliced: 6 delegates instead of 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from et_pipeline.models.fused import FusedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt(model: PreTrainedModel) -> None:
    """Split the fused linears of a skeleton."""
    layers: Any = model.get_decoder().layers
    for layer in layers:
        attention, mlp = layer.self_attn, layer.mlp
        key_value = attention.num_key_value_heads * attention.head_dim
        query = attention.qkv_proj.out_features - 2 * key_value
        parts = {"q_proj": query, "k_proj": key_value, "v_proj": key_value}
        attention.qkv_proj = FusedLinear(parts, attention.qkv_proj)
        half = mlp.gate_up_proj.out_features // 2
        mlp.gate_up_proj = FusedLinear({"gate_proj": half, "up_proj": half}, mlp.gate_up_proj)
