"""A model without its numbers is run once, to see whether its attention can be ours in every layer.

What a class of transformers says of itself (`_supports_attention_backend`) is neither needed nor enough: StableLM does
not say it and takes any attention, Doge says it and computes with what the cache returns. So each model is asked, on
torch's meta device, where a whole forward of a large one takes tenths of a second and no memory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.pytorch_utils import Conv1D

from et_pipeline import gemma
from et_pipeline.architecture import read_sizes
from et_pipeline.errors import UserError
from et_pipeline.models.own_cache import OwnCache
from et_pipeline.states import KeysValues, has_mixers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedModel

PROBE = "et_pipeline_probe"
# What an attention may be handed beside queries, keys and values: ours knows it, or it says nothing new.
_KNOWN = ("call", "position_ids", "position_embeddings", "cache_position", "sliding_window")
_LACKS = {"s_aux": "attention sinks (s_aux)"}
_TOKENS = 2


class _Lack(Exception):
    """Ends the run, with what the model has that we lack."""


class _Probe(OwnCache):
    """A cache that holds nothing, and knows again what it has handed out."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self.handed: list[torch.Tensor] = []
        self.attended: set[int] = set()
        self.cached: dict[int, tuple[int, int]] = {}  # layer to heads, and numbers of each

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return _TOKENS, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if key_states.shape[-1] != value_states.shape[-1]:
            raise _Lack(
                f"has keys of {key_states.shape[-1]} numbers and values of {value_states.shape[-1]}, and our caches "
                "hold as many of each"
            )
        self.cached[layer_idx] = key_states.shape[1], key_states.shape[-1]
        self.handed += [key_states, value_states]
        return key_states, value_states


_RUN: ContextVar[_Probe] = ContextVar("_RUN")


def check_attention(model: PreTrainedModel, config: Any) -> None:
    """Refuse a model some of whose layers do not take our attention and cache, with a `UserError`.

    Args:
        model: a causal LM, with weights or on the meta device; it stays as it is.
        config: its config of text.
    """
    family = f"family {config.model_type}"
    if gemma.sees_later(config.to_dict()):
        raise UserError(f"this {config.model_type} model attends to later tokens too, so it cannot generate text")
    if has_mixers(config.to_dict()) or config.model_type in gemma.KINDS:  # known layer by layer, and compared in tests
        return
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise UserError(f"{family} keeps its linear layers transposed (Conv1D), and only nn.Linear is quantized here")
    cache = _Probe(config.num_hidden_layers)
    empty = {name: torch.empty(each.shape, dtype=each.dtype, device="meta") for name, each in _tensors(model)}
    given = {
        "input_ids": torch.zeros(1, _TOKENS, dtype=torch.long, device="meta"),
        "position_ids": torch.arange(_TOKENS, device="meta").unsqueeze(0),
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    usual, training, token = config._attn_implementation, model.training, _RUN.set(cache)
    config._attn_implementation = PROBE
    try:
        with torch.no_grad(), torch.device("meta"), _one_rope(model):
            torch.func.functional_call(model.eval(), empty, kwargs=given)
    except _Lack as lack:
        raise UserError(f"{family} {lack}") from lack
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{family} cannot be run with another cache than its own, as transformers' {type(model).__name__} has it "
            f"({type(error).__name__}: {told})"
        ) from error
    finally:
        config._attn_implementation = usual
        _RUN.reset(token)
        model.train(training)
    if len(cache.attended) < cache.count:
        raise UserError(
            f"{family} does not let its attention be replaced: {len(cache.attended)} of its {cache.count} layers use "
            "the one that they are given"
        )
    _check_sizes(cache, config, family)


def _check_sizes(cache: _Probe, config: Any, family: str) -> None:
    """What layers cache is what a plan and a program believe, which read it off the config."""
    for layer, states in enumerate(read_sizes(config.to_dict(), f"the config of {family}").states):
        for state in (each for each in states if isinstance(each, KeysValues)):
            found = cache.cached.get(layer)
            if found != (state.heads, state.dim):
                heads, dim = found or (0, 0)
                raise UserError(
                    f"{family} has layers of sizes that are unknown here: layer {layer} caches {heads} heads of {dim} "
                    f"numbers, where its config says {state.heads} of {state.dim}"
                )


@contextmanager
def _one_rope(model: PreTrainedModel) -> Iterator[None]:
    """Within the context rotary frequencies do not depend on positions, which have no numbers; see `freeze_rope`."""
    with ExitStack() as patches:
        for module in model.modules():
            kinds = getattr(module, "rope_type", None)
            if kinds is not None:
                frozen = dict.fromkeys(kinds, "frozen") if isinstance(kinds, dict) else "frozen"
                patches.enter_context(mock.patch.object(module, "rope_type", frozen))
        yield


def _tensors(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Look at what an attention is handed; computes nothing."""
    cache = _RUN.get()
    if not all(any(each is known for known in cache.handed) for each in (key, value)):
        raise _Lack("computes with its cached keys and values outside of its attention, where ours are not at hand")
    for name, value_of in kwargs.items():
        if name in _LACKS and value_of is not None:
            raise _Lack(f"has {_LACKS[name]}, which our attention lacks")
        if isinstance(value_of, torch.Tensor) and name not in _KNOWN:
            raise _Lack(f"hands its attention {name}, which ours does not know")
    if attention_mask is not None:
        raise _Lack("hands its attention a mask of its own, and ours makes the mask")
    if getattr(module, "is_causal", True) is False or kwargs.get("is_causal") is False:
        raise _Lack("attends to later tokens too, so it cannot generate text")
    layer: Any = module.layer_idx
    cache.attended.add(layer)
    return torch.empty_like(query).transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """As ours: none is built."""


AttentionInterface.register(PROBE, _attention)
AttentionMaskInterface.register(PROBE, _no_mask)
