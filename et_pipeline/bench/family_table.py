"""What `bench.families` has to be told of families, tiny sizes and models that people know; and the table it makes."""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 128
WINDOW = 16
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    # Ten times the usual spread: attention is peaked, so that a wrong mask or cache shows in the logits.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_LAYERS = ["sliding_attention", "full_attention"]
_QWEN = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _LAYERS}
_GEMMA = {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
}
_DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
# What a class's own sizes do not say.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": _LAYERS,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _LAYERS},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3n_text": {**_GEMMA, "laurel_rank": 8, "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0]},
    "gemma4": {"text_config": {**_GEMMA, "global_head_dim": 32, "pad_token_id": 0}},
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 30,
        }
    },
    "gemma4_text": {**_GEMMA, "global_head_dim": 32},
    "gemma4_unified_assistant": {"text_config": {"model_type": "gemma4_unified_text"}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "num_local_experts": 0,
        "shared_intermediate_size": 96,
        "mamba_n_heads": 8,
        "mamba_d_state": 16,
    },
    "hunyuan_v1_moe": {"num_experts": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral3": {"sliding_window": WINDOW},
    "modernbert-decoder": {"pad_token_id": 0, "local_attention": 2 * WINDOW},
    "olmo_hybrid": _DELTA,
    "phi3": {"sliding_window": WINDOW},
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "qwen3_5_text": _DELTA,
    "smollm3": {**_QWEN, "no_rope_layers": [1, 0]},
    "starcoder2": {"sliding_window": WINDOW},
}
# Models that people know, of families that go through.
EXAMPLES: dict[str, str] = {
    "apertus": "Apertus 8B",
    "arcee": "AFM 4.5B",
    "biogpt": "BioGPT",
    "bitnet": "BitNet b1.58 2B",
    "cohere": "Command R",
    "cohere2": "Command R7B",
    "cwm": "Code World Model",
    "ernie4_5": "ERNIE 4.5 0.3B",
    "exaone4": "EXAONE 4.0 1.2B",
    "gemma": "Gemma 2B, CodeGemma",
    "gemma2": "Gemma 2 2B",
    "gemma3_text": "Gemma 3 270M, 1B",
    "gemma3n_text": "the text part of Gemma 3n E2B",
    "gemma4_text": "the text part of Gemma 4 E2B",
    "glm": "GLM-4 9B, GLM-Edge",
    "glm4": "GLM-4 0414",
    "gpt_bigcode": "StarCoder, SantaCoder",
    "gpt_neox": "Pythia",
    "granite": "Granite 3 2B",
    "granitemoehybrid": "Granite 4 350M, 1B (dense)",
    "helium": "Helium 1 2B",
    "hunyuan_v1_dense": "Hunyuan 0.5B, 1.8B",
    "internlm3": "InternLM 3 8B",
    "lfm2": "LFM2 350M, 1.2B",
    "llama": "Llama 2, 3.2, SmolLM2, TinyLlama, Yi, DeepSeek-R1-Distill-Llama",
    "ministral": "Ministral 8B",
    "ministral3": "Ministral 3 3B",
    "mistral": "Mistral 7B",
    "nanochat": "nanochat",
    "nemotron": "Nemotron Mini 4B",
    "olmo": "OLMo 1B",
    "olmo2": "OLMo 2 1B",
    "olmo3": "OLMo 3 7B",
    "opt": "OPT 125M",
    "persimmon": "Persimmon 8B",
    "phi": "Phi-1.5, Phi-2",
    "phi3": "Phi-3-mini, Phi-3.5-mini, Phi-4-mini",
    "qwen2": "Qwen2.5 0.5B, DeepSeek-R1-Distill-Qwen",
    "qwen3": "Qwen3 0.6B, 1.7B",
    "qwen3_5_text": "the text part of Qwen3.5 0.8B",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3 3B",
    "stablelm": "StableLM 2 1.6B",
    "starcoder2": "StarCoder2 3B",
    "vaultgemma": "VaultGemma 1B",
}


def table(result: dict[str, Any]) -> str:
    """Families that go through, and what the others have that we lack, in Markdown."""
    through = [each for each in result["families"] if each["errors"]]
    lines = ["| family | for example | forms | exact to |", "|---|---|---|---:|"]
    for each in through:
        forms = "all" if len(each["errors"]) == 3 else ", ".join(f"`{form}`" for form in each["errors"])
        exact = f"{max(each['errors'].values()):.1e}"
        lines.append(f"| `{each['family']}` | {EXAMPLES.get(each['family'], '')} | {forms} | {exact} |")
    reasons: dict[str, list[str]] = {}
    for each in result["families"]:
        if not each["errors"]:
            reasons.setdefault(_in_general(each["refused"]), []).append(f"`{each['family']}`")
    others = ["| it | families |", "|---|---|"]
    for reason, families in sorted(reasons.items(), key=lambda item: -len(item[1])):
        others.append(f"| {reason} | {', '.join(families)} |")
    return (
        f"Of the {len(result['families'])} families of causal LMs that transformers {result['transformers']} has, "
        f"{len(through)} go through, and {len(result['families']) - len(through)} are refused.\n\n"
        + "\n".join([*lines, "", *others])
        + "\n"
    )


def _in_general(sentence: str) -> str:
    """A refusal without the name and the figures of one model."""
    sentence = re.sub(r"^(family \S+|the checkpoint/config\.json( describes a \S+ model)?|transformers) ", "", sentence)
    return re.split(r" \(|[,:;]", sentence)[0].strip()
