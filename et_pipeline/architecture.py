"""What config.json alone says about a model: the shape of every tensor and what each layer remembers, without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from et_pipeline import encoder_shapes, gemma, hybrids, plugins
from et_pipeline.errors import UserError
from et_pipeline.states import States, layer_states

Shapes = dict[str, tuple[int, ...]]


class Family(NamedTuple):
    """How a family's layers differ from Llama's, as far as tensors go.

    Attributes:
        biases: config key that gives the attention's projections biases, or "" for none.
        qkv_bias: queries, keys and values have biases whatever the config says, and the output has none.
        mlp_bias: config key that gives the feed-forward part biases, or "".
        head_norms: queries and keys are normalized per head.
        four_norms: a norm before and after attention and feed-forward part, instead of one before each.
        fused: queries, keys and values are one tensor, gate and up another.
        tied: whether the head is the embedding where the config does not say.
        window: how many tokens a layer with a window sees where the config does not say; None: all.
        windowed: a window counts at all; otherwise no layer has one, whatever the config says.
        mixed: layers are of the kinds that `layer_types` lists; otherwise all are of one kind.
        window_pattern: every n-th layer sees everything where the config lists no kinds of layers; 0 for none.
        shapes: gives all tensors, of (config, sizes, whether the head is tied), where layers differ among themselves.
        adapt: what another package does to a model's modules before it gets weights; ours are in `models.families`.
    """

    biases: str = "attention_bias"
    qkv_bias: bool = False
    mlp_bias: str = ""
    head_norms: bool = False
    four_norms: bool = False
    fused: bool = False
    tied: bool = False
    window: int | None = None
    windowed: bool = True
    mixed: bool = True
    window_pattern: int = 0
    shapes: Callable[[Mapping[str, Any], Any, bool], Shapes] | None = None
    adapt: Callable[[Any], None] | None = None


FAMILIES = {
    "gemma": Family(tied=True, windowed=False, mixed=False),
    "gemma2": Family(four_norms=True, tied=True, window=4096, window_pattern=2),
    "gemma3_text": Family(head_norms=True, four_norms=True, tied=True, window=4096, window_pattern=6),
    gemma.GEMMA3N: Family(tied=True, window=512, shapes=gemma.shapes),
    gemma.GEMMA4: Family(tied=True, window=512, shapes=gemma.shapes),
    "granitemoehybrid": Family(windowed=False, shapes=hybrids.granite),
    "lfm2": Family(tied=True, windowed=False, shapes=hybrids.lfm2),
    "llama": Family(mlp_bias="mlp_bias", windowed=False, mixed=False),
    "ministral": Family(biases="", window=4096),
    "mistral": Family(biases="", window=4096, mixed=False),
    "phi3": Family(biases="", fused=True, mixed=False),
    "qwen2": Family(biases="", qkv_bias=True, window=4096),
    "qwen3": Family(head_norms=True, window=4096),
    "qwen3_5_text": Family(windowed=False, shapes=hybrids.qwen3_5),
    "smollm3": Family(mlp_bias="mlp_bias", tied=True),
}
# Encoders, which see the whole text at once and make an embedding of it.
ENCODERS = ("bert", "camembert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta")
OFFSET_POSITIONS = ("camembert", "mpnet", "roberta", "xlm-roberta")  # that begin behind the padding's id
# Tensors of a checkpoint that its embedding does not need: the layer over the first token that BERT learns for its own
# training, heads that predict tokens, and what transformers once stored and now computes.
UNUSED_BY_ENCODERS = re.compile(r"(^|\.)(pooler\.|position_ids$|token_type_ids$)|^(lm_head|head|decoder)\.")
# What some families call the embedding, and the head.
EMBEDDINGS = tuple(f"{name}.weight" for name in ("embed_tokens", "embed_in", "tok_embeddings", "wte", "transformer.w"))
HEADS = ("lm_head.weight", "embed_out.weight", "output_projection.weight", "decoder.weight")
# What some families' configs call a size.
_ALIASES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "model_max_length"),
}
_OPTIONAL_WINDOW = ("qwen2", "qwen3", "smollm3")  # sliding_window counts only where use_sliding_window is set


def find_family(name: str) -> Family | None:
    """What is known of a family, here or by another package (see `plugins`)."""
    found: Family | None = FAMILIES.get(name) or plugins.load("families", name, Family)
    return found


class Sizes(BaseModel):
    """What the config.json of any family says.

    Attributes:
        windows: per layer, how many tokens it sees; None for all.
        states: per layer, what it remembers between calls.
        hidden_size: numbers per token between layers, and in an embedding.
        max_position: the longest context; of an encoder the longest text, special tokens included.
        table: the shape of the table of per-layer embeddings, of which a token needs a row; None: there is none.
    """

    model_config = ConfigDict(frozen=True)

    layers: int
    windows: tuple[int | None, ...]
    states: States
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_position: int
    table: tuple[int, int] | None = None


class Architecture(Sizes):
    """A model's shape.

    Attributes:
        family: `model_type` of config.json.
        shapes: every stored tensor; a tied head is not among them.
        tied_head: the head's weights are the embedding's.
        encodes: it embeds texts, and has no head and no cache.
    """

    family: str
    shapes: Shapes
    tied_head: bool
    encodes: bool = False

    @property
    def parameters(self) -> int:
        """Count over all tensors; tied ones once."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def embedding(self) -> tuple[int, ...]:
        """Shape of the embedding, which a tied head has too."""
        return next(shape for name, shape in self.shapes.items() if name.endswith(EMBEDDINGS))


def read_sizes(config: Mapping[str, Any], where: str) -> Sizes:
    """Read what needs no knowledge of the family's tensors.

    Args:
        config: the content of config.json.
        where: what to call it in a message.

    Raises:
        UserError: a figure is missing.
    """
    number = partial(_number, config.get("text_config", config), where)
    heads, layers, hidden = number("num_attention_heads"), number("num_hidden_layers"), number("hidden_size")
    windows, kv_heads = layer_windows(config, layers), number("num_key_value_heads", heads)
    head_dim = number("head_dim", max(1, hidden // heads))
    return Sizes(
        layers=layers,
        windows=windows,
        states=layer_states(config, windows, kv_heads, head_dim),
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden,
        vocab_size=number("vocab_size"),
        max_position=longest_context(config) or number("max_position_embeddings"),
        table=gemma.table(config.get("text_config", config), layers),
    )


def _number(text: Mapping[str, Any], where: str, key: str, otherwise: int | None = None) -> int:
    names = (key, *_ALIASES.get(key, ()))
    value = next((text[name] for name in names if text.get(name) is not None), otherwise)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UserError(f"{where} has {key}={value!r}, expected a positive integer")
    return value


def read_architecture(
    config: Mapping[str, Any], where: str, stored: Shapes | None = None, embeds: bool = False, dense: Sequence[int] = ()
) -> Architecture:
    """Work out a model's tensors and windows.

    Args:
        config: the content of config.json.
        where: what to call it in a message.
        stored: the shapes of the checkpoint's files where they are known: then the family may be an unknown one.
        embeds: the model embeds texts, which of an encoder need not be said.
        dense: of such a one, outputs of the linear layers behind the pooling.

    Raises:
        UserError: a figure is missing, or nothing is known about the family's tensors.
    """
    text = config.get("text_config", config)
    name = str(text.get("model_type", ""))
    family, sizes, number = find_family(name), read_sizes(config, where), partial(_number, text, where)
    if embeds or name in ENCODERS:
        if stored is not None:
            shapes = _needed(stored)
        elif family is not None:
            shapes = _needed(_shapes(family, text, number, sizes, True))
        else:
            shapes = encoder_shapes.shapes(name, text, number, where, FAMILIES)
        widths = [sizes.hidden_size, *dense]
        shapes |= {f"dense.{n}.weight": (widths[n + 1], widths[n]) for n in range(len(dense))}
        return Architecture(family=name, shapes=shapes, tied_head=False, encodes=True, **dict(sizes))
    check_answers(text, where)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    tied = (family is not None and family.tied) if tied is None else bool(tied)
    if stored is not None:
        # Old checkpoints carry rotary tables.
        shapes = {key: shape for key, shape in stored.items() if not key.endswith("rotary_emb.inv_freq")}
        tied = not any(key.endswith(HEADS) for key in shapes)
        if name in gemma.KINDS and family is not None and family.shapes is not None:  # the file has more than the model
            needed = family.shapes(text, sizes, tied)
            shapes = {key: shape for key, shape in shapes.items() if key in needed} or shapes
        if not any(key.endswith(EMBEDDINGS) for key in shapes):
            raise UserError(
                f"{where} describes a {name} model with none of the embeddings {', '.join(EMBEDDINGS)}, so no plan can "
                "be made of it"
            )
    elif family is None:
        raise UserError(
            f"{where} has model_type={name!r}, whose tensors mode=plan does not know; it knows "
            f"{', '.join(sorted([*FAMILIES, *plugins.names('families')]))}, and any family from a folder that holds "
            "the weights"
        )
    elif family.shapes is not None:
        shapes = family.shapes(text, sizes, tied)
    else:
        shapes = _shapes(family, text, number, sizes, tied)
    return Architecture(family=name, shapes=shapes, tied_head=tied, **dict(sizes))


def check_answers(text: Mapping[str, Any], where: str) -> None:
    """Refuse a model whose tokens see later ones, as one that answers.

    Raises:
        UserError: says what would work.
    """
    if gemma.sees_later(text):
        key = "is_causal" if text.get("is_causal") is False else "use_bidirectional_attention"
        raise UserError(
            f"{where} has {key}={json.dumps(text[key])}: it attends to later tokens too, so it embeds texts and does "
            "not answer; put modules.json and what else sentence-transformers saves beside it"
        )


def longest_context(config: Mapping[str, Any]) -> int | None:
    """The longest context that a config's positions reach; None where it does not say."""
    text = config.get("text_config", config)
    names = ("max_position_embeddings", *_ALIASES["max_position_embeddings"])
    longest = next((text[name] for name in names if text.get(name) is not None), None)
    if not isinstance(longest, int) or isinstance(longest, bool) or longest <= 0:
        return None
    if text.get("model_type") in OFFSET_POSITIONS:
        padding = text.get("pad_token_id")
        return longest - (padding if isinstance(padding, int) else 1) - 1
    ropes = text.get("rope_parameters") or text.get("rope_scaling")
    ropes = ropes if isinstance(ropes, Mapping) else {}
    for rope in (ropes, *ropes.values()):  # of the whole model, or one per kind of layer
        if isinstance(rope, Mapping) and rope.get("rope_type", rope.get("type")) == "dynamic":
            factor = rope.get("factor")  # here the number is what the frequencies are stretched from
            return int(longest * factor) if isinstance(factor, int | float) else longest
    return longest


# A delegate plans its memory anew for each new number of slots that it attends to, which costs as much as attending to
# some that are not used. Of 1, 8, 16 and 64, 8 and 16 take the fewest instructions on an arm64 core (SmolLM2's shape,
# from position 64 to 128).
STEP = 16

STEPS_BACK = 16  # a chat takes a stop string's tokens back


def layer_slots(window: int | None, max_context: int, prefill_chunk: int) -> int:
    """How many slots a layer's cache has in a decoder that holds it: whole steps, so each head's begin where they may.

    Args:
        window: how many tokens the layer sees; None for all. Where that is fewer than there are, its cache is a ring:
            a call's first token sees window - 1 tokens before it, when the call's last token is already written.
        max_context: tokens of a whole chat.
        prefill_chunk: most tokens of one call.
    """
    tokens = max_context
    if window is not None and window < max_context:
        tokens = min(max_context, window + max(prefill_chunk, STEPS_BACK))
    return -(-tokens // STEP) * STEP


def check_context(max_context: int, longest: int) -> None:
    """Refuse a context that the model does not know.

    Raises:
        UserError: says how long it may be.
    """
    if max_context > longest:
        raise UserError(
            f"model.max_context={max_context} exceeds the {longest} positions of this model; choose at most {longest}"
        )


def _shapes(family: Family, text: Mapping[str, Any], number: Any, sizes: Sizes, tied: bool) -> Shapes:
    hidden, wide, head_dim = sizes.hidden_size, number("intermediate_size"), sizes.head_dim
    queries, keys = number("num_attention_heads") * head_dim, sizes.kv_heads * head_dim
    attention_bias = bool(family.biases and text.get(family.biases))
    mlp_bias = bool(family.mlp_bias and text.get(family.mlp_bias))
    if family.fused:
        linears = [
            ("self_attn.qkv_proj", queries + 2 * keys, hidden, attention_bias),
            ("self_attn.o_proj", hidden, queries, attention_bias),
            ("mlp.gate_up_proj", 2 * wide, hidden, mlp_bias),
            ("mlp.down_proj", hidden, wide, mlp_bias),
        ]
    else:
        qkv_bias = attention_bias or family.qkv_bias
        linears = [
            ("self_attn.q_proj", queries, hidden, qkv_bias),
            ("self_attn.k_proj", keys, hidden, qkv_bias),
            ("self_attn.v_proj", keys, hidden, qkv_bias),
            ("self_attn.o_proj", hidden, queries, attention_bias),
            ("mlp.gate_proj", wide, hidden, mlp_bias),
            ("mlp.up_proj", wide, hidden, mlp_bias),
            ("mlp.down_proj", hidden, wide, mlp_bias),
        ]
    norms = [("input_layernorm", hidden), ("post_attention_layernorm", hidden)]
    if family.four_norms:
        norms += [("pre_feedforward_layernorm", hidden), ("post_feedforward_layernorm", hidden)]
    if family.head_norms:
        norms += [("self_attn.q_norm", head_dim), ("self_attn.k_norm", head_dim)]
    shapes: Shapes = {"model.embed_tokens.weight": (sizes.vocab_size, hidden)}
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}."
        for name, rows, columns, bias in linears:
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        for name, size in norms:
            shapes[f"{prefix}{name}.weight"] = (size,)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (sizes.vocab_size, hidden)
    return shapes


def _needed(stored: Shapes) -> Shapes:
    """Those tensors of an encoder's checkpoint that an embedding needs."""
    return {name: shape for name, shape in stored.items() if not UNUSED_BY_ENCODERS.search(name)}


def layer_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """How many tokens each layer sees, None for all, by the rules of transformers' configuration classes."""
    text = config.get("text_config", config)
    name = str(text.get("model_type", ""))
    family = find_family(name) or Family()
    window = text.get("sliding_window", family.window)
    if name == "modernbert":  # half of it to each side, and the token itself
        every = text.get("global_attn_every_n_layers", 3)
        kinds = text.get("layer_types") or ["sliding_attention" if n % every else "" for n in range(layers)]
        window = text.get("local_attention", 128) // 2 + 1
        return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers])
    if isinstance(window, int) and gemma.sees_later(text) and text.get("use_bidirectional_attention"):  # likewise
        window = window // 2 + 1
    if (
        not family.windowed
        or not isinstance(window, int)
        or (name in _OPTIONAL_WINDOW and not text.get("use_sliding_window"))
    ):
        return (None,) * layers
    kinds = gemma.kinds(text, layers) or (text.get("layer_types") if family.mixed else None)
    if isinstance(kinds, list | tuple) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if name in ("qwen2", "qwen3"):
        first = text.get("max_window_layers", 28)
        return tuple(window if layer >= first else None for layer in range(layers))
    if name == "smollm3":  # the layers without rotary embedding are those with a window
        interval = text.get("no_rope_layer_interval", 4)
        rotary = text.get("no_rope_layers") or [int((layer + 1) % interval != 0) for layer in range(layers)]
        return tuple(None if has else window for has in rotary[:layers])
    pattern = family.window_pattern
    pattern = text.get("sliding_window_pattern", pattern) if name == "gemma3_text" else pattern
    return tuple(None if pattern and not (layer + 1) % pattern else window for layer in range(layers))
