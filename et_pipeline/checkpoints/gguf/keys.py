"""What each key of a GGUF file's metadata means for the model: carried into config.json, harmless, or refused.

The keys are llama.cpp's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). transformers carries the shape;
what it passes over would give a model that answers, but wrongly. tests/checkpoints/test_gguf_keys.py proves the table
against llama.cpp's logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from et_pipeline.errors import UserError

# `{architecture}.*` keys whose meaning transformers' own table carries, in each family that it converts.
_SHAPE = (
    "context_length",
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "vocab_size",
)
_ROPE = (
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scale_linear",
)
_CARRIED = (
    *_SHAPE,
    *_ROPE,
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
# With the reason why nothing has to be done.
HARMLESS = {
    "rope.scaling.finetuned": "says how the model was trained",
    "tensor_data_layout": "names the order that transformers puts right",
    "attention.causal": "all families here are causal; false is refused",
}
_WINDOWED = ("gemma2", "gemma3", "phi3", "mistral", "starcoder2")  # whose config has a window that is used
_PATTERNS = {"gemma2": 2, "gemma3": 6}
_YARN = {
    "rope.scaling.yarn_beta_fast": (32, 0),
    "rope.scaling.yarn_beta_slow": (1, 0),
    "rope.scaling.yarn_ext_factor": (1, -1),
}
_OTHER_PREFIXES = ("general.", "split.", "quantize.", "imatrix.", "training.", "GGUF.")
_TOKENIZER = frozenset(
    f"tokenizer.ggml.{name}"
    for name in (
        *("model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges", "add_bos_token"),
        *("add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces", "bos_token_id"),
        *("eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id", "padding_token_id", "mask_token_id"),
        *("seperator_token_id", "separator_token_id", "cls_token_id", "prefix_token_id", "suffix_token_id"),
        *("middle_token_id", "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id"),
        *("fim_rep_token_id", "fim_sep_token_id", "precompiled_charsmap", "hf_json", "rwkv"),
    )
)


def check_keys(path: Path, architecture: str, metadata: Mapping[str, Any]) -> None:
    """Refuse a key that is neither carried nor known to be harmless.

    Raises:
        UserError: names the key and its value.
    """
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if key.startswith(("tokenizer.chat_template", "tokenizer.huggingface", *_OTHER_PREFIXES)) or key in _TOKENIZER:
            continue
        ours = name != key
        if ours and (name in _CARRIED or (name in HARMLESS and value is not False)):
            if isinstance(value, list) and name in _SHAPE:
                raise UserError(f"{path} has {key}={value}: layers of different shape are not supported")
            continue
        if ours and name not in HARMLESS and value in (0, False, "", "none"):  # switched off
            continue
        raise UserError(
            f"{path} has {key}={value!r}, which this version does not know, and which may change what the model "
            "computes; point model.source at its original checkpoint"
        )


def carry(path: Path, architecture: str, metadata: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Put into a config what transformers passes over.

    Args:
        path: of the file.
        architecture: as the file names it.
        metadata: its keys and values.
        config: the content of config.json so far; changed in place.

    Raises:
        UserError: a value has no place in the family's config.
    """

    def value(name: str) -> Any:
        return metadata.get(f"{architecture}.{name}")

    def refuse(name: str, why: str) -> UserError:
        return UserError(
            f"{path} has {architecture}.{name}={value(name)!r}, {why}; point model.source at its original checkpoint"
        )

    heads = config.get("num_attention_heads") or config.get("n_head")
    head = value("attention.key_length") or config["hidden_size"] // heads
    if value("attention.value_length") not in (None, head):
        raise refuse("attention.value_length", f"but keys of {head}")
    if value("attention.key_length") is not None:
        if "head_dim" not in config and head != config["hidden_size"] // heads:
            raise refuse("attention.key_length", "which this family cannot have")
        if "head_dim" in config:
            config["head_dim"] = head
    turned = value("rope.dimension_count")
    if turned not in (None, head):
        if architecture != "phi3":
            raise refuse("rope.dimension_count", f"and heads of {head}: this family turns all of a head")
        config["rope_parameters"] = (config.get("rope_parameters") or {}) | {"partial_rotary_factor": turned / head}
    _carry_rope(value, refuse, config)
    if value("attention.sliding_window") and architecture in _WINDOWED:
        config["sliding_window"] = value("attention.sliding_window")
    pattern = value("attention.sliding_window_pattern")
    if pattern is not None and pattern != _PATTERNS.get(architecture):
        raise refuse("attention.sliding_window_pattern", "which is not this family's usual one")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if value(name):
            if name not in config:
                raise refuse(name, "which this family does not have")
            config[name] = value(name)
    if architecture in ("gemma2", "gemma3"):  # the file does not say; these are llama.cpp's rules
        largest = {"gemma2": 46, "gemma3": 62}[architecture]
        config["query_pre_attn_scalar"] = (
            config["hidden_size"] // heads if config["num_hidden_layers"] == largest else head
        )


def _carry_rope(value: Any, refuse: Any, config: dict[str, Any]) -> None:
    ropes = config.get("rope_parameters") or {"rope_type": "default"}
    nested = {kind: rope for kind, rope in ropes.items() if isinstance(rope, dict)}
    whole = nested.get("full_attention", ropes)
    if value("rope.freq_base"):
        whole["rope_theta"] = value("rope.freq_base")
        config.pop("rope_theta", None)
    if value("rope.freq_base_swa"):
        if "sliding_attention" not in nested:
            raise refuse("rope.freq_base_swa", "which this family does not have")
        nested["sliding_attention"]["rope_theta"] = value("rope.freq_base_swa")
    kind, factor = value("rope.scaling.type"), value("rope.scaling.factor") or value("rope.scale_linear")
    if kind in (None, "linear") and factor not in (None, 0, 1):
        whole |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor:
        # llama.cpp multiplies its own attention factor, 0.1 ln(factor) + 1, by the file's (arXiv:2309.00071, eq. 22).
        more = value("rope.scaling.attn_factor") or 1.0
        for name, usual in _YARN.items():
            if value(name) not in (None, *usual):
                raise refuse(name, f"and only {usual[0]} is known: llama.cpp itself passes over others")
        whole |= {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": value("rope.scaling.original_context_length"),
            "attention_factor": more * (0.1 * math.log(factor) + 1),
        }
    elif kind not in (None, "none", "linear", "yarn"):
        raise refuse("rope.scaling.type", "which cannot be converted")
    elif value("rope.scaling.attn_factor") not in (None, 0, 1):
        raise refuse("rope.scaling.attn_factor", "without a scaling that it belongs to")
    config["rope_parameters"] = ropes
