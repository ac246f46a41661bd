"""Small random models that embed texts, as their makers lay them out: with the files of sentence-transformers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

VOCABULARY, HIDDEN = 300, 64
QUERY, DOCUMENT = "task: search result | query: ", "title: none | text: "

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # attention is peaked, so that a wrong mask shows
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
KINDS = ["full_attention" if layer == 2 else "sliding_attention" for layer in range(3)]

# What each is like: the config, the class that is saved, pooling, linear layers, prompts, tokens around a text.
EMBEDDERS: dict[str, dict[str, Any]] = {
    "embeddinggemma": {
        "family": "gemma3_text",
        "config": {
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,  # 9 tokens to each side, itself included
            "layer_types": KINDS,
            "use_bidirectional_attention": True,
        },
        "pooling": {"pooling_mode_mean_tokens": True, "include_prompt": True},
        "dense": (128, 64),
        "prompts": {"query": QUERY, "document": DOCUMENT, "STS": "task: sentence similarity | query: "},
        "around": ("<bos>", "<eos>"),
    },
    "qwen3_embedding": {
        "family": "qwen3",
        "config": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
        "answers": True,  # saved with the head's names: "model.layers…"
        "pooling": {"pooling_mode_lasttoken": True},
        "prompts": {"query": "Instruct: Find passages that answer the query\nQuery:", "document": ""},
        "around": (None, "<eos>"),
    },
    "modernbert_embed": {
        "family": "modernbert",
        "config": {"local_attention": 8, "global_attn_every_n_layers": 3},
        "pooling": {"pooling_mode_mean_tokens": True},
        "prompts": {"query": "search_query: ", "document": "search_document: "},
        "default": "document",
        "around": ("<bos>", "<eos>"),
    },
}


def make_embedder(folder: Path, name: str, **changes: Any) -> Path:
    """Write one of `EMBEDDERS` into a folder; keywords change what it is like."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    like = {**EMBEDDERS[name], **changes}
    config = AutoConfig.for_model(like["family"], **{**SHAPE, **like["config"]})
    torch.manual_seed(0)
    model = (AutoModelForCausalLM if like.get("answers") else AutoModel).from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms too: left at 0 and 1 they would hide a fault
            torch.nn.init.normal_(parameter, mean=0.0 if like["family"] == "gemma3_text" else 1.0, std=0.1)
    model.save_pretrained(folder)
    _write_sentence_files(folder, like)
    _write_tokenizer(folder, *like["around"])
    return folder


def _write_sentence_files(folder: Path, like: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    widths = [HIDDEN, *like.get("dense", ())]
    steps = ["Transformer", "Pooling", *["Dense"] * (len(widths) - 1), "Normalize"]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(steps)
    ]
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, **like["pooling"]},
        "config_sentence_transformers.json": {
            "prompts": like["prompts"],
            "default_prompt_name": like.get("default"),
            "similarity_fn_name": "cosine",
        },
    }
    for number, (before, after) in enumerate(pairwise(widths), start=2):
        bend = "torch.nn.modules.linear.Identity"
        files[f"{number}_Dense/config.json"] = {
            "in_features": before,
            "out_features": after,
            "bias": False,
            "activation_function": bend,
        }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for number, (before, after) in enumerate(pairwise(widths), start=2):
        weight = torch.randn(after, before) * before**-0.5
        save_file({"linear.weight": weight}, folder / f"{number}_Dense" / "model.safetensors", {"format": "pt"})


def _write_tokenizer(folder: Path, begin: str | None, end: str) -> None:
    """Bytes, with a special token at the end of each text, and with some at its begin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {token: tokenizer.token_to_id(token) for token in (begin, end) if token}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*([begin] if begin else []), "$A", end], special_tokens=list(tokens.items())
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    named |= {"bos_token": begin} if begin else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
