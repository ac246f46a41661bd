"""What config.json says about Gemma 3n and Gemma 4, whose layers differ from each other: the rules, without torch.

The last layers have no keys and values of their own, and read those of the last earlier layer of their kind; in Gemma 4
the layers that see everything have larger heads. Each layer is given a part of a row of a table for each token
(per-layer embeddings), which is over half of the small sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from et_pipeline.errors import UserError

GEMMA3N, GEMMA4 = "gemma3n_text", "gemma4_text"
KINDS = (GEMMA3N, GEMMA4)
FULL = "full_attention"
TABLE = "embed_tokens_per_layer"
_EVERY = {GEMMA3N: 5, GEMMA4: 6}  # which layer sees everything where the config lists none
# AltUp's coefficients: rows of 4 weights, of which no group can be made, and a few kilobytes in all.
_FLOATS = re.compile(r"\.altup\.")

Text = Mapping[str, Any]


def table(text: Text, layers: int) -> tuple[int, int] | None:
    """The shape of the table of per-layer embeddings, if there is one."""
    width = text.get("hidden_size_per_layer_input", 256) if text.get("model_type") in KINDS else 0
    return (text.get("vocab_size_per_layer_input", 262_144), layers * width) if width else None


def stays_float(name: str) -> bool:
    """Whether no recipe quantizes the linear of that name."""
    return bool(_FLOATS.search(name))


def kinds(text: Text, layers: int) -> tuple[str, ...] | None:
    """What each layer attends to, by the rules of transformers' configuration classes; None for other families."""
    name = str(text.get("model_type"))
    if name not in KINDS:
        return None
    given = text.get("layer_types")
    if not isinstance(given, list | tuple) or len(given) != layers:
        given = [FULL if not (layer + 1) % _EVERY[name] else "sliding_attention" for layer in range(layers)]
    return (*given[:-1], FULL) if name == GEMMA4 else tuple(given)


def sees_later(text: Text) -> bool:
    """Whether tokens of a text attend to later ones, which they also do in Gemma 3 that embeds."""
    given = text.get("use_bidirectional_attention")
    pictures = text.get("model_type") == GEMMA4 and given == "vision"  # tokens of a picture alone; there is none
    return text.get("is_causal") is False or (bool(given) and not pictures)


def check_walked(family: str, what: str) -> None:
    """Refuse what computes one layer after the other from what the one before gives.

    Raises:
        UserError: layers of this family take more than that.
    """
    if family in KINDS:
        raise UserError(
            f"{what} goes through a model layer by layer, and layers of family {family} also take a part of a row of "
            "per-layer embeddings and other layers' keys and values; use recipe.algorithm=rtn or hqq, with neither "
            "transform nor mixed_bits, and no pruning"
        )


def heads(text: Text, full: Sequence[bool], usual: tuple[int, int]) -> list[tuple[int, int]]:
    """Heads of keys and values of each layer, and the numbers of each.

    Args:
        text: the config of the text part.
        full: of each layer, whether it sees everything.
        usual: what the config says for all layers.
    """
    if text.get("model_type") != GEMMA4:
        return [usual] * len(full)
    own = text.get("per_layer_config")
    if isinstance(own, Mapping):  # as transformers writes it
        given = [own.get(str(layer), own.get(layer)) or {} for layer in range(len(full))]
        return [(each.get("num_key_value_heads", usual[0]), each.get("head_dim", usual[1])) for each in given]
    number = text.get("num_global_key_value_heads") if text.get("attention_k_eq_v") else None
    large = (number or usual[0], text.get("global_head_dim") or 512)
    return [large if sees_all else usual for sees_all in full]


def late_layers(text: Text) -> int:
    """How many layers at the end read others' keys and values."""
    usual = {GEMMA3N: 15, GEMMA4: 0}.get(str(text.get("model_type")))
    return 0 if usual is None else text.get("num_kv_shared_layers", usual)


def shared_with(text: Text, full: Sequence[bool]) -> list[int | None]:
    """Of each layer, the earlier layer whose keys and values it reads; None where it has its own."""
    own = len(full) - late_layers(text)
    found: list[int | None] = []
    for layer, kind in enumerate(full):
        before = [earlier for earlier in range(own) if full[earlier] == kind]
        found.append(before[-1] if layer >= own and before else None)
    return found


def widths(text: Text, shared: Sequence[int | None]) -> list[int]:
    """How wide the feed-forward part of each layer is."""
    given = text.get("intermediate_size")
    if isinstance(given, list | tuple):
        return list(given)
    double = text.get("model_type") == GEMMA4 and text.get("use_double_wide_mlp")
    return [given * (2 if double and source is not None else 1) for source in shared] if isinstance(given, int) else []


def shapes(text: Text, sizes: Any, tied: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of a whole model.

    Args:
        text: the config of the text part.
        sizes: what `architecture.read_sizes` reads there.
        tied: the head's weights are the embedding's.
    """
    hidden, layers, per_layer = sizes.hidden_size, sizes.layers, text.get("hidden_size_per_layer_input", 256)
    found: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (sizes.vocab_size, hidden), "norm.weight": (hidden,)}
    if per_layer:
        found[f"{TABLE}.weight"] = sizes.table
        found["per_layer_model_projection.weight"] = (layers * per_layer, hidden)
        found["per_layer_projection_norm.weight"] = (per_layer,)
    inputs = text.get("altup_num_inputs", 4) if text.get("model_type") == GEMMA3N else 0
    for number in range(inputs - 1):
        for name in ("altup_projections", "altup_unembed_projections"):
            found[f"{name}.{number}.weight"] = (hidden, hidden)
    full = [window is None for window in sizes.windows]
    shared, usual = shared_with(text, full), (sizes.kv_heads, sizes.head_dim)
    each = zip(full, shared, heads(text, full, usual), widths(text, shared), strict=True)
    for layer, (sees_all, source, (kv_heads, dim), wide) in enumerate(each):
        of_layer = _attention(text, hidden, kv_heads, dim, source is None, sees_all)
        of_layer |= {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide)}
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            of_layer[f"{norm}_layernorm"] = (hidden,)
        if per_layer:
            of_layer |= {"per_layer_input_gate": (per_layer, hidden), "per_layer_projection": (hidden, per_layer)}
            of_layer["post_per_layer_input_norm"] = (hidden,)
        if inputs:
            of_layer |= _altup_and_laurel(hidden, inputs, text.get("laurel_rank", 64))
        prefix = f"layers.{layer}."
        found |= {f"{prefix}{name}" + ("" if _bare(name) else ".weight"): shape for name, shape in of_layer.items()}
        if not inputs:
            found[f"{prefix}layer_scalar"] = (1,)
    whole = {f"model.{name}": shape for name, shape in found.items()}
    return whole if tied else whole | {"lm_head.weight": (sizes.vocab_size, hidden)}


def _bare(name: str) -> bool:
    return name.endswith((".bias", "correct_output_scale"))


def _attention(
    text: Text, hidden: int, kv_heads: int, dim: int, own: bool, sees_all: bool
) -> dict[str, tuple[int, ...]]:
    queries, keys = text["num_attention_heads"] * dim, kv_heads * dim
    found: dict[str, tuple[int, ...]] = {"self_attn.q_proj": (queries, hidden), "self_attn.q_norm": (dim,)}
    if own:
        found |= {"self_attn.k_proj": (keys, hidden), "self_attn.k_norm": (dim,)}
        if not (text.get("model_type") == GEMMA4 and text.get("attention_k_eq_v") and sees_all):
            found["self_attn.v_proj"] = (keys, hidden)
    found["self_attn.o_proj"] = (hidden, queries)
    if text.get("attention_bias"):
        found |= {f"{name}.bias": shape[:1] for name, shape in found.items() if name.endswith("_proj")}
    return found


def _altup_and_laurel(hidden: int, inputs: int, rank: int) -> dict[str, tuple[int, ...]]:
    """Alternating updates (Baykal et al. 2023, arXiv:2301.13310), and LAuReL (Menghani et al. 2024, 2411.07501)."""
    return {
        "altup.correct_output_scale": (hidden,),
        "altup.correction_coefs": (inputs, inputs),
        "altup.prediction_coefs": (inputs**2, inputs),
        "altup.modality_router": (inputs, hidden),
        "altup.router_norm": (hidden,),
        "laurel.linear_left": (rank, hidden),
        "laurel.linear_right": (hidden, rank),
        "laurel.post_laurel_norm": (hidden,),
    }
