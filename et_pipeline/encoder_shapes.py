"""The tensors of encoders, from config.json alone, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from et_pipeline.errors import UserError

Shapes = dict[str, tuple[int, ...]]
_BERT_LIKE = ("bert", "camembert", "roberta", "xlm-roberta")  # whose tensors have BERT's names and shapes


def shapes(name: str, text: Mapping[str, Any], number: Any, where: str, families: Iterable[str]) -> Shapes:
    """The tensors of BERT (Devlin et al. 2018, arXiv:1810.04805) and of those that are built like it."""
    if name == "modernbert":
        return _modernbert_shapes(text, number)
    if name not in _BERT_LIKE:
        known = ", ".join([*_BERT_LIKE, "modernbert", *families])
        raise UserError(
            f"{where} has model_type={name!r}, whose tensors mode=plan does not know; of the models that embed texts "
            f"it knows {known}, and any other from a folder that holds the weights"
        )
    hidden, wide = number("hidden_size"), number("intermediate_size")
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (number("vocab_size"), hidden),
        "embeddings.position_embeddings.weight": (number("max_position_embeddings"), hidden),
        "embeddings.token_type_embeddings.weight": (number("type_vocab_size", 2), hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    linears = [
        *((f"attention.self.{each}", hidden, hidden) for each in ("query", "key", "value")),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", wide, hidden),
        ("output.dense", hidden, wide),
    ]
    for layer in range(number("num_hidden_layers")):
        prefix = f"encoder.layer.{layer}."
        for linear, rows, columns in linears:
            shapes[f"{prefix}{linear}.weight"] = (rows, columns)
            shapes[f"{prefix}{linear}.bias"] = (rows,)
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}{norm}.weight"] = shapes[f"{prefix}{norm}.bias"] = (hidden,)
    return shapes


def _modernbert_shapes(text: Mapping[str, Any], number: Any) -> Shapes:
    """The tensors of ModernBERT (Warner et al. 2024, arXiv:2412.13663)."""
    hidden, wide = number("hidden_size"), number("intermediate_size")
    biased = {"attn": bool(text.get("attention_bias")), "mlp": bool(text.get("mlp_bias"))}
    norms = ["embeddings.norm", "final_norm"]
    shapes: Shapes = {"embeddings.tok_embeddings.weight": (number("vocab_size"), hidden)}
    for layer in range(number("num_hidden_layers")):
        prefix = f"layers.{layer}."
        linears = (("attn.Wqkv", 3 * hidden, hidden), ("attn.Wo", hidden, hidden))
        for name, rows, columns in (*linears, ("mlp.Wi", 2 * wide, hidden), ("mlp.Wo", hidden, wide)):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if biased[name.partition(".")[0]]:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        norms += [f"{prefix}mlp_norm", *([f"{prefix}attn_norm"] if layer else [])]
    for norm in norms:
        shapes |= {f"{norm}.weight": (hidden,), **({f"{norm}.bias": (hidden,)} if text.get("norm_bias") else {})}
    return shapes
