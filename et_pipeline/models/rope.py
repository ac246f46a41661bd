"""Rotary frequencies that transformers chooses at run time, fixed for one context length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHANGING = ("dynamic", "longrope")


def rope_settings(config: Any) -> dict[str | None, dict[str, Any]]:
    """The rotary settings: one per kind of layer, or one for the whole model under None."""
    settings = getattr(config, "rope_parameters", None) or {}
    per_kind = {kind: value for kind, value in settings.items() if isinstance(value, dict)}
    return {**per_kind} or {None: settings}


def freeze_rope(model: PreTrainedModel, max_context: int) -> None:
    """Give every position the rotary frequencies that transformers uses for a sequence of `max_context` tokens.

    LongRoPE (Ding et al. 2024, arXiv:2402.13753) has two sets of frequencies and dynamic NTK scaling one for each
    length, and transformers chooses by the positions of the call. A cache then holds keys of both, and a program has
    one set only. So the choice is made once, for the cache as well as for the reference.

    Calling it again with another length chooses again; other kinds of rotary embedding stay as they are.

    Args:
        model: a causal LM of transformers with its rotary buffers filled; its rotary modules are changed.
        max_context: the longest sequence that is meant.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = model.config.get_text_config()
    changing = {kind: rope for kind, rope in rope_settings(config).items() if rope.get("rope_type") in _CHANGING}
    for module in model.modules() if changing else ():
        if not hasattr(module, "rope_type"):
            continue
        own: Any = module
        for kind, rope in changing.items():
            prefix, which = ("", {}) if kind is None else (f"{kind}_", {"layer_type": kind})
            compute = ROPE_INIT_FUNCTIONS[rope["rope_type"]]
            frequencies, scaling = compute(own.config, None, seq_len=max_context, **which)
            own.get_buffer(f"{prefix}inv_freq")  # a family that names it otherwise is not known to be frozen
            setattr(own, f"{prefix}inv_freq", frequencies)
            setattr(own, f"{prefix}attention_scaling", scaling)
        # The name of no kind: transformers leaves the frequencies alone.
        own.rope_type = "frozen" if None in changing else own.rope_type | dict.fromkeys(changing, "frozen")


def check_constant(model: PreTrainedModel) -> None:
    """Refuse, with a `UserError`, frequencies that change with the text's length, where all positions are in a call."""
    config = model.config.get_text_config()
    changing = {str(rope.get("rope_type")) for rope in rope_settings(config).values()} & {*_CHANGING}
    if changing:
        raise UserError(
            f"this {config.model_type} model has rotary frequencies of type {', '.join(sorted(changing))}, which "
            "change with the length of a text, so it cannot be exported as one that embeds texts"
        )
