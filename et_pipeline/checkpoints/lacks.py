"""What a model has that no program of ours can: read off its config.json, so that a plan refuses what a run would.

What a config does not show, `models.dry_run` finds before a run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from et_pipeline.architecture import ENCODERS, find_family
from et_pipeline.states import has_mixers

_EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
)
_SENSES = ("audio_encoder_config", "audio_encoder", "vq_config")
_STATES = ("state_size", "ssm_state_size", "mamba_d_state", "mamba_headdim", "ssm_cfg")
# Families whose configs show nothing of it, by what they have.
_BY_FAMILY = {
    "codes the distance of two tokens as a bias of their score (ALiBi or another), and our attention adds no bias": (
        "bloom",
        "cpmant",
        "mpt",
        "xlnet",
    ),
    "computes its attention by code of its own, which cannot be replaced by ours": (
        "codegen",
        "falcon",
        "gpt_neo",
        "gpt_neox_japanese",
        "gptj",
        "xglm",
        "xlm",
    ),
    "keeps its linear layers transposed (Conv1D), and only those of nn.Linear are quantized here": (
        "gpt-sw3",
        "gpt2",
        "openai-gpt",
    ),
    "is an encoder of a family that is not supported: its tokens see later ones too, so it cannot generate text": (
        "bert-generation",
        "big_bird",
        "data2vec-text",
        "ernie",
        "megatron-bert",
        "rembert",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm-roberta-xl",
        "xmod",
    ),
    "remembers a state of its own kind instead of keys and values": ("recurrent_gemma", "rwkv", "xlstm"),
    "hashes its tokens into buckets that attend to each other (LSH attention)": ("reformer",),
    "turns bytes into patches of its own, without a tokenizer": ("blt",),
    "is the small model beside another one whose keys and values it reads": (
        "gemma4_assistant",
        "gemma4_unified_assistant",
    ),
    "is the decoder of a model that sees, and attends to its encoder": ("trocr",),
    "takes differences of two attentions over the same cached values": ("diffllama",),
    "masks its attention by what its cached values are (dynamic mask attention)": ("doge",),
}
_FAMILIES = {family: sentence for sentence, families in _BY_FAMILY.items() for family in families}


def what_lacks(config: Mapping[str, Any]) -> str | None:
    """What a model has that we lack, as the end of a sentence that begins with its name; None for nothing known.

    Args:
        config: the content of its config.json, or all of what its class in transformers makes of that.
    """
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    names = [str(each.get("model_type")) for each in (config, text)]
    known = next((_FAMILIES[name] for name in names if name in _FAMILIES), None)
    experts = text.get("enable_moe_block")  # of Gemma 4; its dense models have the other keys as well
    if known is None and find_family(names[1]) is not None and not has_mixers(text) and not experts:
        return None  # such a key means nothing there, as to transformers, and is named
    found = [*(rule(config) for rule in (_encoder_beside, _senses)), *(rule(text) for rule in _RULES)]
    return next((each for each in found if each is not None), known)


def _encoder_beside(config: Mapping[str, Any]) -> str | None:
    if config.get("is_encoder_decoder") is True:
        return (
            "has an encoder beside its decoder (is_encoder_decoder=true), and models of a decoder alone are supported"
        )
    return None


def _senses(config: Mapping[str, Any]) -> str | None:
    sense = next((key for key in _SENSES if config.get(key)), None)
    if sense is None and config.get("model_type") in _MULTIMODAL:
        sense = f"model_type={config['model_type']}"
    return sense and (f"sees or hears ({sense}), and models of text alone are supported; use the maker's model of text")


_MULTIMODAL = ("fuyu", "gemma4_unified", "phi4_multimodal", "qwen4_exp")


def _experts(text: Mapping[str, Any]) -> str | None:
    parts = (text, text.get("ffn_config"))
    for part in (each for each in parts if isinstance(each, Mapping)):
        for key in _EXPERTS:
            count = part.get(key)
            if isinstance(count, int) and count > (not has_mixers(text)) and text.get("is_moe") is not False:
                return f"is a mixture of experts ({key}={count}), and one feed-forward part for each layer is supported"
    return None


def _latent(text: Mapping[str, Any]) -> str | None:
    rank = text.get("kv_lora_rank")
    return rank and (
        f"makes keys and values of a smaller vector (multi-head latent attention, kv_lora_rank={rank}), and our "
        "attention takes as many numbers of each"
    )


def _indexed(text: Mapping[str, Any]) -> str | None:
    key = next((key for key in ("index_topk", "index_topk_blocks") if text.get(key)), None)
    return key and f"picks the tokens that each one attends to ({key}={text[key]}), and our attention takes all of them"


def _distances(text: Mapping[str, Any]) -> str | None:
    if text.get("alibi") is True:
        return "adds distances to its attention's scores (ALiBi, alibi=true), which our attention lacks"
    return None


def _state_space(text: Mapping[str, Any]) -> str | None:
    key = next((key for key in _STATES if text.get(key)), None)
    if key is None or has_mixers(text):
        return None
    return f"has state-space layers ({key}={text[key]}), which no program of ours has in this family"


def _crossing(text: Mapping[str, Any]) -> str | None:
    if text.get("cross_attention_layers"):
        return "has layers that attend to a picture (cross_attention_layers), and models of text alone are supported"
    return None


def _decoding_encoder(text: Mapping[str, Any]) -> str | None:
    if text.get("is_decoder") is True and text.get("model_type") in ENCODERS:
        return "is used as a decoder (is_decoder=true), and encoders of this family embed texts here"
    return None


_RULES: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
    _experts,
    _latent,
    _indexed,
    _distances,
    _crossing,
    _state_space,
    _decoding_encoder,
)
