"""A decoder with no dynamic shape: one token per call, its key/value cache in buffers, for delegates that want that.

The same signature as `models.decoder`, so the same runners feed it, one token at a time. Only operators that NPU
compilers take: matrix products, softmax, lookups in tables. Rotary angles and masks are such tables.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from et_pipeline.errors import UserError
from et_pipeline.models.decoder import cached_heads, check_supported, layer_kinds, metadata
from et_pipeline.models.own_cache import OwnCache
from et_pipeline.models.rope import freeze_rope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.export import ExportedProgram
    from transformers import PreTrainedModel

    from et_pipeline.settings import ExportForm

STATIC = "et_pipeline_static"

# Low enough that no token sees what is masked; not lower, as 16-bit activations have to span it.
MASKED = -255.0


class StaticCache(OwnCache):
    """What transformers takes for its cache; the storage is the decoder's buffers."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder.layers)
        self.decoder = decoder
        self.position: Any = None
        self.attended: list[int] = []

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Length and offset of a mask."""
        return self.decoder.form.max_context, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the token's key and value; hands the whole caches to the attention."""
        keys = self.decoder.get_buffer(f"k_cache_{layer_idx}")
        values = self.decoder.get_buffer(f"v_cache_{layer_idx}")
        keys[:, :, self.position] = key_states
        values[:, :, self.position] = value_states
        if self.decoder.unclean:
            mask = self.decoder.get_buffer(f"mask_{self.decoder.kinds[layer_idx]}")
            seen = (mask[self.position] >= 0).view(1, 1, -1, 1)
            return torch.where(seen, keys, 0.0), torch.where(seen, values, 0.0)
        return keys, values


class StaticDecoder(nn.Module):
    """One forward call: write one token into the cache, attend, give its logits."""

    def __init__(self, model: PreTrainedModel, form: ExportForm, unclean: bool = False) -> None:
        """Wrap a model.

        Args:
            model: a causal LM of transformers.
            form: `max_context` is the cache's length; `prefill_chunk` has no meaning here.
            unclean: the cache begins with any floats, such as NaN, as where a delegate has it in memory that it does
                not clear; they are read as 0. Integers need no such care: their scale keeps them small enough to mask.

        Raises:
            UserError: the model has layers or positions that this form cannot hold.
        """
        super().__init__()
        self.model = model
        self.form = form
        self.unclean = unclean
        self.config = model.config.get_text_config()
        check_supported(model, self.config, form)
        freeze_rope(model, form.max_context)
        self.layers = self.config.num_hidden_layers
        self.softcap = getattr(self.config, "attn_logit_softcapping", None)
        heads, dim = cached_heads(self.config)
        shape = (1, heads, form.max_context, dim)
        for layer in range(self.layers):
            for kind in "kv":
                self.register_buffer(f"{kind}_cache_{layer}", torch.zeros(shape), persistent=False)
        age = torch.arange(form.max_context).unsqueeze(1) - torch.arange(form.max_context)
        windows = {"full_attention": form.max_context, "sliding_attention": getattr(self.config, "sliding_window", 0)}
        self.kinds = attention_kinds(self.config)
        for kind in sorted(set(self.kinds)):
            seen = (age >= 0) & (age < windows[kind])
            self.register_buffer(f"mask_{kind}", torch.where(seen, 0.0, MASKED), persistent=False)
        self.cache = StaticCache(self)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """Run one token.

        Args:
            tokens: [1, 1] int64.
            input_pos: [1] int64, its position.

        Returns:
            [1, 1, vocabulary] float32 logits after it.
        """
        self.cache.position = input_pos
        self.cache.attended = []
        masks = {kind: self.get_buffer(f"mask_{kind}")[input_pos] for kind in sorted(set(self.kinds))}
        with attending(self, masks):
            return self.model(
                input_ids=tokens,
                position_ids=input_pos.unsqueeze(0),
                past_key_values=self.cache,
                use_cache=True,
            ).logits

    def reset(self) -> None:
        """Empty the cache."""
        for name, buffer in self.named_buffers(recurse=False):
            if "_cache_" in name:
                buffer.zero_()


def attention_kinds(config: Any) -> list[str]:
    """What each layer attends to.

    Raises:
        UserError: a layer remembers something else than keys and values.
    """
    kinds = layer_kinds(config)
    strange = next((kind for kind in kinds if kind not in ("full_attention", "sliding_attention")), None)
    if strange is not None:
        raise UserError(
            f"family {config.model_type} has layers of kind {strange}, which programs of static shape cannot hold; use "
            "backend=xnnpack"
        )
    return kinds


def static_metadata(decoder: StaticDecoder, bos_id: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Constant methods that ExecuTorch's LLM runner reads; it feeds a prompt token by token then."""
    usual = metadata(decoder, bos_id, eos_ids)
    return usual | {"get_max_seq_len": 1, "use_sdpa_with_kv_cache": False, "enable_dynamic_shape": False}


def positions(program: ExportedProgram) -> int:
    """The length of an exported static decoder's cache."""
    return next(tensor.shape[2] for name, tensor in program.constants.items() if "_cache_" in name)


def export_static(decoder: StaticDecoder) -> ExportedProgram:
    """Export the one call that there is.

    Raises:
        UserError: the family does not go through the replaceable attention.
    """
    example = (torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), npu_friendly(decoder.model, decoder.form.max_context):
        program = torch.export.export(decoder.requires_grad_(False), example, strict=False)
    check_attended(decoder)
    return program


class Attending(Protocol):
    """A decoder whose attention is `static_attention`."""

    cache: StaticCache
    config: Any
    layers: int
    kinds: list[str]


# Of the call that runs. Not keywords of the model's, as some families' layers hand their attention none.
_CALL: ContextVar[tuple[Attending, dict[str, torch.Tensor]]] = ContextVar("_CALL")


@contextmanager
def attending(decoder: Attending, masks: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within the context the decoder's model has this attention.

    Args:
        decoder: whose cache is used.
        masks: by kind of attention, what is added to the scores.
    """
    usual, token = decoder.config._attn_implementation, _CALL.set((decoder, masks))
    decoder.config._attn_implementation = STATIC
    try:
        yield
    finally:
        decoder.config._attn_implementation = usual
        _CALL.reset(token)


def check_attended(decoder: Attending) -> None:
    """Refuse a family some of whose layers did not come by our attention, with a `UserError`."""
    if decoder.cache.attended != list(range(decoder.layers)):
        raise UserError(
            f"family {decoder.config.model_type} uses the cached attention in {len(decoder.cache.attended)} of "
            f"{decoder.layers} layers, so it cannot be exported"
        )


@contextmanager
def npu_friendly(model: PreTrainedModel, positions: int) -> Iterator[None]:
    """Within the context, RMSNorm is one operator and rotary angles of all positions are looked up in tables."""
    tables = nn.Module()  # registered, because a tensor in a closure fails export
    model.add_module("_tables", tables)
    try:
        with ExitStack() as patches:
            for number, (name, module) in enumerate(list(model.named_modules())):
                kind = type(module).__name__
                if kind.endswith("RMSNorm"):
                    forward = _whole_norm(tables, f"norm_{number}", module)
                    if forward is not None:
                        patches.enter_context(mock.patch.object(module, "forward", forward))
                elif name.endswith("rotary_emb"):
                    forward = _rope_lookup(tables, f"rope_{number}", module, positions)
                    patches.enter_context(mock.patch.object(module, "forward", forward))
                if isinstance(module, nn.Embedding):
                    patches.enter_context(mock.patch.object(module, "padding_idx", None))
            yield
    finally:
        delattr(model, "_tables")


def _whole_norm(tables: nn.Module, name: str, module: nn.Module) -> Any:
    """The forward of an RMSNorm as torch's operator, or None where that is not what the module computes."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    sample = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
    expected = module(sample)
    for offset in (0.0, 1.0):  # Gemma stores the distance of the factor from one
        if torch.allclose(functional.rms_norm(sample, weight.shape, weight + offset, eps), expected, atol=1e-5):
            tables.register_buffer(name, weight.detach() + offset, persistent=False)
            return lambda x: functional.rms_norm(x, weight.shape, getattr(tables, name), eps)
    return None


def _rope_lookup(tables: nn.Module, name: str, module: nn.Module, positions: int) -> Any:
    """The forward of a rotary embedding (Su et al. 2021, arXiv:2104.09864) as a lookup, one table per kind."""
    original = module.forward

    def forward(x: torch.Tensor, position_ids: torch.Tensor, *kind: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        own = "_".join([name, *map(str, kind), *map(str, named.values())])
        if not hasattr(tables, f"{own}_cos"):
            cos, sin = original(torch.zeros(1, 1, 1), torch.arange(positions).unsqueeze(0), *kind, **named)
            tables.register_buffer(f"{own}_cos", cos[0].float(), persistent=False)
            tables.register_buffer(f"{own}_sin", sin[0].float(), persistent=False)
        return getattr(tables, f"{own}_cos")[position_ids], getattr(tables, f"{own}_sin")[position_ids]

    # Before tracing, in which a table would not be registered any more.
    for kind in dict.fromkeys(getattr(module, "layer_types", None) or [None]):
        forward(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long), *([] if kind is None else [kind]))
    return forward


def static_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    mask: torch.Tensor,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of S tokens over the whole cache.

    Args:
        query: [1, heads, S, head dim] float32.
        keys: [1, kv heads, length, head dim] float32, already holding the tokens'.
        values: the same for values.
        scale: factor of the query-key products.
        mask: [S, length] float32, added to the scores.
        softcap: limit of the scores, or None (Gemma 2, arXiv:2408.00118).

    Returns:
        [1, S, heads, head dim] float32.
    """
    _, heads, tokens, dim = query.shape
    kv_heads, length = keys.shape[1:3]
    # The heads that share keys lie as rows of one matrix; nothing is repeated, and nothing has more than four axes.
    grouped = query.reshape(1, kv_heads, heads // kv_heads * tokens, dim)
    scores = torch.matmul(grouped, keys.transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores.reshape(1, heads, tokens, length) + mask, -1)
    attended = torch.matmul(weights.reshape(1, kv_heads, heads // kv_heads * tokens, length), values)
    return attended.reshape(1, heads, tokens, dim).transpose(1, 2)


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
    """What a transformers attention layer calls: `key` and `value` are the caches, from `Cache.update`."""
    if kwargs.get("s_aux") is not None:
        raise UserError(f"{type(module).__name__} needs attention with s_aux, which this version cannot export")
    decoder, masks = _CALL.get()
    layer: Any = module.layer_idx
    decoder.cache.attended.append(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return static_attention(query, key, value, scale, masks[decoder.kinds[layer]], softcap), None


AttentionInterface.register(STATIC, _attention)
AttentionMaskInterface.register(STATIC, lambda *args, **kwargs: None)
