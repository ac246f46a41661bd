"""What each layer remembers between calls, from config.json alone: shapes, bytes, and whether a sequence can go back.

Each state is empty at position 0: what an earlier sequence left is not seen from there, so nobody resets a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from et_pipeline import gemma


class _State(BaseModel):
    model_config = ConfigDict(frozen=True)


class KeysValues(_State):
    """Keys and values; where `window` tokens are fewer than the context, a ring of them.

    Attributes:
        heads: heads of keys and values.
        dim: numbers of each.
        window: how many tokens the layer sees; None for all.
    """

    kind: Literal["keys_values"] = "keys_values"
    heads: int
    dim: int
    window: int | None = None


class Shared(_State):
    """An earlier layer's keys and values, which this layer reads and does not write."""

    kind: Literal["shared"] = "shared"
    layer: int


class Convolution(_State):
    """The last inputs of a causal convolution over the tokens, `[1, width, channels]` float32."""

    kind: Literal["convolution"] = "convolution"
    channels: int
    width: int


class Recurrent(_State):
    """A matrix for each head, `[heads, rows, columns]` float32, into which each token is mixed."""

    kind: Literal["recurrent"] = "recurrent"
    heads: int
    rows: int
    columns: int


State = Annotated[KeysValues | Shared | Convolution | Recurrent, Field(discriminator="kind")]
States = tuple[tuple[State, ...], ...]  # of each layer


def goes_back(states: States) -> bool:
    """Whether a sequence may go on from an earlier position, as what a mixed state held there is not kept."""
    return not any(isinstance(state, Convolution | Recurrent) for layer in states for state in layer)


def mixed_shape(state: State) -> tuple[int, ...] | None:
    """The shape of a state whose size does not depend on the context; None for keys and values."""
    if isinstance(state, Convolution):
        return 1, state.width, state.channels
    if isinstance(state, Recurrent):
        return state.heads, state.rows, state.columns
    return None


def keys_values(states: States) -> Iterable[KeysValues]:
    """The keys and values that are kept, in the order of the layers."""
    return (state for layer in states for state in layer if isinstance(state, KeysValues))


def layer_states(config: Mapping[str, Any], windows: Sequence[int | None], heads: int, dim: int) -> States:
    """What each layer remembers.

    Args:
        config: the content of config.json.
        windows: per layer, how many tokens it sees; None for all.
        heads: heads of keys and values, where the config has no others for some layers.
        dim: numbers of each, likewise.
    """
    text = config.get("text_config", config)
    if text.get("model_type") in gemma.KINDS:
        full = [window is None for window in windows]
        each = zip(windows, gemma.heads(text, full, (heads, dim)), gemma.shared_with(text, full), strict=True)
        return tuple(
            (KeysValues(heads=own[0], dim=own[1], window=window) if source is None else Shared(layer=source),)
            for window, own, source in each
        )
    mixer = _MIXERS.get(str(text.get("model_type")))
    mixed = _mixed_layers(text, len(windows)) if mixer else (False,) * len(windows)
    return tuple(
        mixer(text) if mixer and mixes else (KeysValues(heads=heads, dim=dim, window=window),)
        for mixes, window in zip(mixed, windows, strict=True)
    )


def has_mixers(config: Mapping[str, Any]) -> bool:
    """Whether layers of this family may have a mixer that is known, instead of attention."""
    return str(config.get("text_config", config).get("model_type")) in _MIXERS


def kinds_of_layers(family: str) -> tuple[str, ...]:
    """What a family with known mixers calls its kinds of layers; none of others."""
    return _KINDS.get(family, ())


def _mixed_layers(text: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Which layers have a mixer instead of attention, by the rules of transformers' configuration classes."""
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list | tuple) and len(kinds) >= layers:
        return tuple(kind in MIXED for kind in kinds[:layers])
    if text.get("model_type") == "lfm2":
        attending = text.get("full_attn_idxs")
        return tuple(attending is not None and layer not in attending for layer in range(layers))
    if text.get("model_type") == "qwen3_5_text":
        interval = text.get("full_attention_interval", 4)
        return tuple(bool((layer + 1) % interval) for layer in range(layers))
    return (True,) * layers


def _short_convolution(text: Mapping[str, Any]) -> tuple[State, ...]:
    return (Convolution(channels=text["hidden_size"], width=text.get("conv_L_cache", 3) - 1),)


def _delta_rule(text: Mapping[str, Any]) -> tuple[State, ...]:
    keys, values = text.get("linear_num_key_heads", 16), text.get("linear_num_value_heads", 32)
    key_dim, value_dim = text.get("linear_key_head_dim", 128), text.get("linear_value_head_dim", 128)
    width = text.get("linear_conv_kernel_dim", 4) - 1
    return (
        Convolution(channels=2 * keys * key_dim + values * value_dim, width=width),
        Recurrent(heads=values, rows=key_dim, columns=value_dim),
    )


def _mamba(text: Mapping[str, Any]) -> tuple[State, ...]:
    heads, size, groups = (text.get(f"mamba_{key}", usual) for key, usual in _MAMBA.items())
    inner = int(text.get("mamba_expand", 2) * text["hidden_size"])
    return (
        Convolution(channels=inner + 2 * groups * size, width=text.get("mamba_d_conv", 4) - 1),
        Recurrent(heads=heads, rows=size, columns=inner // heads),
    )


_MAMBA = {"n_heads": 128, "d_state": 256, "n_groups": 1}
# Short convolutions (Liquid AI's LFM2), the gated delta rule (Yang et al. 2024, arXiv:2412.06464), Mamba-2 (Dao & Gu
# 2024, arXiv:2405.21060).
_MIXERS = {
    "lfm2": _short_convolution,
    "qwen3_5_text": _delta_rule,
    "granitemoehybrid": _mamba,
}
_KINDS = {
    "lfm2": ("conv", "full_attention"),
    "qwen3_5_text": ("linear_attention", "full_attention"),
    "granitemoehybrid": ("mamba", "linear_attention", "attention", "full_attention"),
}
MIXED = ("conv", "linear_attention", "mamba")  # what configs call layers with a mixer instead of attention
