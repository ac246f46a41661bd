"""The tensors of families in which some layers have a mixer instead of attention: from config.json, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from et_pipeline.states import Convolution, Recurrent

Shapes = dict[str, tuple[int, ...]]
Text = Mapping[str, Any]
# As Llama's layers have them.
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")


def _linear(prefix: str, rows: int, columns: int, bias: bool = False) -> Shapes:
    return {f"{prefix}.weight": (rows, columns)} | ({f"{prefix}.bias": (rows,)} if bias else {})


def _attention(prefix: str, text: Text, sizes: Any, names: tuple[str, ...], queries: int, bias: bool) -> Shapes:
    """Of one layer: projections by the family's names, without norms."""
    keys = sizes.kv_heads * sizes.head_dim
    wide = text["num_attention_heads"] * sizes.head_dim
    rows = (queries, keys, keys)
    shapes: Shapes = {}
    for name, count in zip(names, rows, strict=False):
        shapes |= _linear(f"{prefix}.{name}", count, sizes.hidden_size, bias)
    return shapes | _linear(f"{prefix}.{names[3]}", sizes.hidden_size, wide, bias)


def _whole(sizes: Any, layers: Shapes, norm: str, tied: bool) -> Shapes:
    embedding = (sizes.vocab_size, sizes.hidden_size)
    shapes = {"model.embed_tokens.weight": embedding, **layers, f"model.{norm}.weight": (sizes.hidden_size,)}
    return shapes | ({} if tied else {"lm_head.weight": embedding})


def _mixes(sizes: Any, layer: int) -> bool:
    return any(isinstance(state, Convolution) for state in sizes.states[layer])


def lfm2(text: Text, sizes: Any, tied: bool) -> Shapes:
    """LFM2 and LFM2.5."""
    hidden, wide = sizes.hidden_size, text.get("block_ff_dim") or text["intermediate_size"]
    if text.get("block_auto_adjust_ff_dim", True):  # two thirds, as of a gated part, in whole multiples
        wide, multiple = int(2 * wide / 3), text.get("block_multiple_of", 256)
        factor = text.get("block_ffn_dim_multiplier", 1.0)
        wide = wide if factor is None else multiple * math.ceil(int(factor * wide) / multiple)
    bias, kernel = bool(text.get("conv_bias", False)), text.get("conv_L_cache", 3)
    layers: Shapes = {}
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}."
        if _mixes(sizes, layer):
            own = f"{prefix}conv"
            layers |= _linear(f"{own}.in_proj", 3 * hidden, hidden, bias) | _linear(
                f"{own}.out_proj", hidden, hidden, bias
            )
            layers[f"{own}.conv.weight"] = (hidden, 1, kernel)
            if bias:
                layers[f"{own}.conv.bias"] = (hidden,)
        else:
            own, queries = f"{prefix}self_attn", text["num_attention_heads"] * sizes.head_dim
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            layers |= _attention(own, text, sizes, names, queries, bias=False)
            layers |= {f"{own}.{kind}_layernorm.weight": (sizes.head_dim,) for kind in "qk"}
        layers |= _linear(f"{prefix}feed_forward.w1", wide, hidden) | _linear(f"{prefix}feed_forward.w3", wide, hidden)
        layers |= _linear(f"{prefix}feed_forward.w2", hidden, wide)
        layers |= {f"{prefix}{norm}.weight": (hidden,) for norm in ("operator_norm", "ffn_norm")}
    return _whole(sizes, layers, "embedding_norm", tied)


def qwen3_5(text: Text, sizes: Any, tied: bool) -> Shapes:
    """Qwen3.5, dense."""
    hidden, wide, bias = sizes.hidden_size, text["intermediate_size"], bool(text.get("attention_bias", False))
    layers: Shapes = {}
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}."
        if _mixes(sizes, layer):
            window, state = sizes.states[layer]
            assert isinstance(state, Recurrent)
            own, value = f"{prefix}linear_attn", state.heads * state.columns
            layers |= _linear(f"{own}.in_proj_qkv", window.channels, hidden)
            layers |= _linear(f"{own}.in_proj_z", value, hidden) | _linear(f"{own}.out_proj", hidden, value)
            layers |= _linear(f"{own}.in_proj_a", state.heads, hidden)
            layers |= _linear(f"{own}.in_proj_b", state.heads, hidden)
            layers[f"{own}.conv1d.weight"] = (window.channels, 1, window.width + 1)
            layers[f"{own}.norm.weight"] = (state.columns,)
            layers |= {f"{own}.{name}": (state.heads,) for name in ("A_log", "dt_bias")}
        else:
            own, queries = f"{prefix}self_attn", 2 * text["num_attention_heads"] * sizes.head_dim  # and their gates
            layers |= _attention(own, text, sizes, _LLAMA, queries, bias)
            layers |= {f"{own}.{kind}_norm.weight": (sizes.head_dim,) for kind in "qk"}
        layers |= _linear(f"{prefix}mlp.gate_proj", wide, hidden) | _linear(f"{prefix}mlp.up_proj", wide, hidden)
        layers |= _linear(f"{prefix}mlp.down_proj", hidden, wide)
        layers |= {f"{prefix}{norm}.weight": (hidden,) for norm in _NORMS}
    return _whole(sizes, layers, "norm", tied)


def granite(text: Text, sizes: Any, tied: bool) -> Shapes:
    """Granite 4 without experts."""
    hidden, wide, bias = sizes.hidden_size, text["shared_intermediate_size"], bool(text.get("attention_bias", False))
    layers: Shapes = {}
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}."
        if _mixes(sizes, layer):
            window, state = sizes.states[layer]
            assert isinstance(state, Recurrent)
            own, inner = f"{prefix}mamba", state.heads * state.columns
            projection = bool(text.get("mamba_proj_bias", False))
            layers |= _linear(f"{own}.in_proj", inner + window.channels + state.heads, hidden, projection)
            layers |= _linear(f"{own}.out_proj", hidden, inner, projection)
            layers[f"{own}.conv1d.weight"] = (window.channels, 1, window.width + 1)
            if text.get("mamba_conv_bias", True):
                layers[f"{own}.conv1d.bias"] = (window.channels,)
            layers[f"{own}.norm.weight"] = (inner,)
            layers |= {f"{own}.{name}": (state.heads,) for name in ("A_log", "D", "dt_bias")}
        else:
            own, queries = f"{prefix}self_attn", text["num_attention_heads"] * sizes.head_dim
            layers |= _attention(own, text, sizes, _LLAMA, queries, bias)
        layers |= _linear(f"{prefix}shared_mlp.input_linear", 2 * wide, hidden)
        layers |= _linear(f"{prefix}shared_mlp.output_linear", hidden, wide)
        layers |= {f"{prefix}{norm}.weight": (hidden,) for norm in _NORMS}
    return _whole(sizes, layers, "norm", tied)
