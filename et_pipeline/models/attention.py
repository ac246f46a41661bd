"""Attention over a key/value cache that lies `[kv heads, length, 1, head dim]`.

It is two matrix products for each kv head, which delegates have, for one token as for many: the query heads of a kv
head are rows of one product and read its keys together. The products go over as many slots as are used, in steps of
`STEP`. These lie in one piece, the first part of the head's, so nothing is transposed and nothing copied to get them,
see `upstream.prefixes`; only fp16 and int8 become fp32 first. What a step has that was not written yet is multiplied by
0, so it must not be infinite; ExecuTorch's `Module` begins with zeros.

The 1 is the number of heads to ExecuTorch's operator that writes, which takes the kv heads for a batch.

A layer with a sliding window (Beltagy et al. 2020, arXiv:2004.05150) has a shorter cache, a ring: the token at position
p lies in slot p modulo its length. Which position a slot holds is computed from the last position written, so the ring
has no state beside the keys and values, and a sequence that starts again at 0 needs no reset. Going back by more than
the ring is longer than the window needs the tokens in between again: their predecessors were overwritten.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import executorch.extension.llm.custom_ops.custom_ops  # registers llama::update_cache
import executorch.kernels.quantized  # noqa: F401  registers what lowering calls for quantized_decomposed
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed::quantize_per_token
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from et_pipeline.architecture import STEP
from et_pipeline.errors import UserError
from et_pipeline.upstream.prefixes import first_slots

if TYPE_CHECKING:
    from torch import nn

    from et_pipeline.settings import KvCache

CACHED = "et_pipeline_cached"

# Not -inf: where a row of scores has nothing else, inf - inf would be no number.
MASKED = -1e30


class Seen(NamedTuple):
    """What the new tokens see of a cache, which is the same in each layer of a kind."""

    used: Any  # how many slots, from the first one on; known at run time
    mask: torch.Tensor  # [group * S, used] float32, added to the scores: 0 or `MASKED` and less
    last: torch.Tensor  # [1, used] float32, the same for the last token's query alone


class Call(NamedTuple):
    """What the attention layers of one forward call share, so that it is computed once."""

    start_pos: Any  # position of the first new token
    rings: frozenset[int]  # layers whose cache is a ring
    late: frozenset[int] = frozenset()  # layers that get the last token only
    final: int | None = None  # the layer that gets all tokens, of whose result the last token's alone is used
    whole: Seen | None = None  # of layers that are no rings
    ring: Seen | None = None
    late_whole: Seen | None = None
    late_ring: Seen | None = None
    slots: torch.Tensor | None = None  # [kv heads, S], where the new tokens go in a ring
    attended: list[int] | None = None  # layers that came by, in order


# Of the call that runs. Not a keyword of the model's, as some families' layers hand their attention none.
CALL: ContextVar[Call] = ContextVar("CALL")


def _write(cache: torch.Tensor, rows: torch.Tensor, start_pos: int, slots: torch.Tensor | None) -> None:
    if slots is None:
        torch.ops.llama.update_cache(rows, cache, start_pos)
    else:
        torch.ops.llama.update_cache_with_indices(rows, cache, start_pos, slots)


class Stored(NamedTuple):
    """The keys or the values of one layer as they are kept: numbers, and of int8 how each token and head is scaled."""

    numbers: torch.Tensor  # [kv heads, length, 1, head dim] float32, float16 or int8
    scales: torch.Tensor | None = None  # [kv heads, length, 1, 1] float32
    zeros: torch.Tensor | None = None  # [kv heads, length, 1, 1] int8, the integer that means 0


def empty_cache(kind: KvCache, heads: int, length: int, dim: int) -> Stored:
    """An empty cache of one of the kinds of `model.kv_cache`, whose `length` is one of `layer_slots`."""
    all_numbers, one = (heads, length, 1, dim), (heads, length, 1, 1)
    if kind != "int8":
        return Stored(torch.zeros(all_numbers, dtype=torch.float16 if kind == "fp16" else torch.float32))
    return Stored(torch.zeros(all_numbers, dtype=torch.int8), torch.zeros(one), torch.zeros(one, dtype=torch.int8))


def store(cache: Stored, values: torch.Tensor, start_pos: int, slots: torch.Tensor | None = None) -> None:
    """Write the keys or the values of new tokens.

    Args:
        cache: is changed.
        values: [1, kv heads, S, head dim] float32.
        start_pos: position of the first token, and its slot where `slots` is None.
        slots: [kv heads, S] int64, the tokens' places in a ring.
    """
    _, heads, tokens, dim = values.shape
    operators, rows = torch.ops.quantized_decomposed, values.contiguous().view(heads, tokens, 1, dim)
    if cache.scales is None or cache.zeros is None:
        _write(cache.numbers, rows.to(cache.numbers.dtype), start_pos, slots)
        return
    scales, zeros = operators.choose_qparams_per_token_asymmetric(rows, torch.int8)
    _write(cache.numbers, operators.quantize_per_token(rows, scales, zeros, -128, 127, torch.int8), start_pos, slots)
    _write(cache.scales, scales.to(torch.float32), start_pos, slots)
    _write(cache.zeros, zeros.to(torch.int8), start_pos, slots)


def read(cache: Stored, head: int, used: Any) -> torch.Tensor:
    """The first `used` slots of a kv head as float32, [1, used, head dim]."""
    numbers = first_slots(cache.numbers, head, used)
    if cache.scales is not None and cache.zeros is not None:
        scales, zeros = first_slots(cache.scales, head, used), first_slots(cache.zeros, head, used)
        dequantize = torch.ops.quantized_decomposed.dequantize_per_token
        wide = scales.to(torch.float64), zeros.to(torch.int64)
        return dequantize(numbers, *wide, -128, 127, torch.int8, torch.float32)
    return numbers.to(torch.float32)


def ring_slots(positions: torch.Tensor, length: int, heads: int) -> torch.Tensor:
    """Where the tokens at `positions` [S] go in a ring of `length` slots: [heads, S] int64, the same for each."""
    return torch.stack([torch.remainder(positions, length)] * heads)


def see(positions: torch.Tensor, group: int, length: int, window: int | None = None) -> Seen:
    """What the tokens at `positions` see of a cache that already holds them.

    Args:
        positions: [S] int64, of the new tokens.
        group: query heads of one kv head, each of which has rows of scores for itself.
        length: slots of the cache; of a ring at least window + S - 1, or as many as there are positions.
        window: of a ring, how many tokens one token sees, itself included.
    """
    last = positions[-1]
    used: Any = torch.clamp(last - torch.remainder(last, STEP) + STEP, max=length).item()
    torch._check(used >= 1)
    torch._check(used <= length)
    slots = torch.arange(used, dtype=torch.long)
    if window is not None:
        mask = partial(_ring_mask, end=last, slots=slots, length=length, window=window)
        return Seen(used, torch.cat([mask(positions)] * group), mask(last.unsqueeze(0)))
    columns = slots.to(torch.float32).unsqueeze(0)  # in float32, which delegates take

    def later(rows: torch.Tensor) -> torch.Tensor:
        return torch.clamp((rows.to(torch.float32).unsqueeze(1) - columns) * -MASKED, max=0.0)

    return Seen(used, later(torch.cat([positions] * group)), later(last.unsqueeze(0)))


def _ring_mask(
    positions: torch.Tensor, end: torch.Tensor, slots: torch.Tensor, length: int, window: int
) -> torch.Tensor:
    """What is added to the scores with `slots`, [S, used], of a ring that has `length` of them, the last one `end`."""
    held = end - torch.remainder(end - slots, length)  # the last position that fell on each slot
    held = torch.where(held < 0, -(1 << 40), held)  # nothing yet
    age = positions.unsqueeze(1) - held.unsqueeze(0)
    return torch.where((age >= 0) & (age < window), 0.0, MASKED)


def attend(
    query: torch.Tensor, keys: Stored, values: Stored, seen: Seen, scale: float, softcap: float | None = None
) -> torch.Tensor:
    """Attention of new tokens over what they see of the cache.

    Query heads are grouped over kv heads as in grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        query: [1, heads, S, head dim] float32.
        keys: of one layer, those of the new tokens included.
        values: likewise.
        seen: how much of them, and with which mask.
        scale: factor of the query-key products.
        softcap: limit of the scores, which go through softcap · tanh(score / softcap) (Gemma 2, arXiv:2408.00118).

    Returns:
        [1, S, heads, head dim] float32.
    """
    _, heads, tokens, dim = query.shape
    kv_heads = keys.numbers.shape[0]
    query = query * (scale if softcap is None else scale / softcap)
    rows = query.view(heads, tokens, dim).contiguous().view(kv_heads, heads // kv_heads * tokens, dim)
    parts = []
    for head in range(kv_heads):
        scores = torch.bmm(rows.narrow(0, head, 1), read(keys, head, seen.used).transpose(1, 2))
        if softcap is not None:
            scores = torch.tanh(scores) * softcap
        parts.append(torch.bmm(torch.softmax(scores + seen.mask, -1), read(values, head, seen.used)))
    out = parts[0] if kv_heads == 1 else torch.cat(parts)  # of one part, it would be an operator beside the delegate
    # Of four dimensions, because from a copy of three torch.export concludes a false bound of S.
    out = out.view(kv_heads, heads // kv_heads, tokens, dim).permute(2, 0, 1, 3).contiguous()
    return out.view(1, tokens, heads, dim)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: Stored,
    value: Stored,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers attention layer calls: `key` and `value` are the caches, from `Cache.update`."""
    if kwargs.get("s_aux") is not None:
        raise UserError(f"{type(module).__name__} needs attention with s_aux, which this version cannot export")
    call = CALL.get()
    layer: Any = module.layer_idx
    if call.attended is not None:
        call.attended.append(layer)
    whole, ring = (call.late_whole, call.late_ring) if layer in call.late else (call.whole, call.ring)
    seen = ring if layer in call.rings else whole
    assert seen is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layer != call.final:
        return attend(query, key, value, seen, scale, softcap), None
    out = attend(query[:, :, -1:], key, value, seen._replace(mask=seen.last), scale, softcap)
    return out.expand(-1, query.shape[2], -1, -1), None  # of the others nothing is used


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """No mask is built: the attention makes its own."""


AttentionInterface.register(CACHED, _attention)
AttentionMaskInterface.register(CACHED, _no_mask)
