"""Attention over a key/value cache that lies `[kv heads, length, 1, head dim]`.

With the kv heads in the batch dimension, each head's keys are contiguous: decode at position 900 is 1.27 times faster
than with `[1, length, kv heads, head dim]`, and the same buffers feed a batched matrix product.

One token and many are attended to in two ways, between which a program chooses at run time (`attend`): ExecuTorch's own
operator reads the cache in place, which is best for one token; for the tokens of a prompt it is slow, and batched
matrix products, which delegates have, make the whole prefill up to twice as fast.

A layer with a sliding window (Beltagy et al. 2020, arXiv:2004.05150) has a shorter cache, a ring: the token at position
p lies in slot p modulo its length. Which position a slot holds is computed from the last position written, so the ring
has no state beside the keys and values, and a sequence that starts again at 0 needs no reset. Going back by more than
the ring is longer than the window needs the tokens in between again: their predecessors were overwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import executorch.extension.llm.custom_ops.custom_ops  # registers llama::custom_sdpa and update_cache
import executorch.kernels.quantized  # noqa: F401  registers what lowering calls for quantized_decomposed
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed::quantize_per_token
from torch._higher_order_ops.cond import cond_op  # torch.cond refuses operands that hold a symbolic size
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from et_pipeline.settings import KvCache

CACHED = "et_pipeline_cached"

# Not -inf: custom_sdpa takes the keys in blocks, and a first block without any visible key would give inf - inf.
MASKED = -1e30

# From so many kv heads on, the query heads of one token that belong together are one piece of work for a thread, not
# several: with fewer pieces, the cores of a phone would have nothing to do.
SHARED_FROM = 4


class Call(NamedTuple):
    """What the attention layers of one forward call share, so that it is computed once."""

    start_pos: Any  # position of the first new token
    rings: frozenset[int]  # layers whose cache is a ring
    ends: tuple[torch.Tensor, ...] = ()  # [] int64, `single_start`, and the position after the last new token
    single: torch.Tensor | None = None  # [] bool, whether there is one new token; None: there always is
    order: tuple[torch.Tensor, ...] = ()  # see `causal_order`
    slots: torch.Tensor | None = None  # [kv heads, S], where the new tokens go in a ring
    ring_masks: tuple[torch.Tensor, ...] = ()  # [S, ring length], and the same for each row of scores, [group * S, …]
    full_mask: torch.Tensor | None = None  # [S, max_context], for layers with capped scores
    attended: list[int] | None = None  # layers that came by, in order


def update_cache(cache: torch.Tensor, values: torch.Tensor, start_pos: int, slots: torch.Tensor | None = None) -> None:
    """Write `values` [1, kv heads, S, head dim] into `cache` [kv heads, length, 1, head dim].

    Args:
        cache: is changed.
        values: of the new tokens.
        start_pos: position of the first of them, and its slot where `slots` is None.
        slots: [kv heads, S] int64, the tokens' places in a ring.
    """
    _write(cache, _rows(values), start_pos, slots)


def _rows(values: torch.Tensor) -> torch.Tensor:
    """[1, kv heads, S, head dim] as the cache has it, [kv heads, S, 1, head dim]."""
    _, heads, length, dim = values.shape
    return values.transpose(1, 2).view(length, heads, dim).transpose(0, 1).contiguous().view(heads, length, 1, dim)


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
    """An empty cache of one of the kinds of `model.kv_cache`."""
    if kind != "int8":
        return Stored(torch.zeros(heads, length, 1, dim, dtype=torch.float16 if kind == "fp16" else torch.float32))
    one = heads, length, 1, 1
    numbers = torch.zeros(heads, length, 1, dim, dtype=torch.int8)
    return Stored(numbers, torch.zeros(one), torch.zeros(one, dtype=torch.int8))


def store(cache: Stored, values: torch.Tensor, start_pos: int, slots: torch.Tensor | None = None) -> None:
    """Write `values` [1, kv heads, S, head dim] float32 into a cache; see `update_cache`."""
    if cache.scales is None or cache.zeros is None:
        _write(cache.numbers, _rows(values).to(cache.numbers.dtype), start_pos, slots)
        return
    operators, rows = torch.ops.quantized_decomposed, _rows(values)
    scales, zeros = operators.choose_qparams_per_token_asymmetric(rows, torch.int8)
    _write(cache.numbers, operators.quantize_per_token(rows, scales, zeros, -128, 127, torch.int8), start_pos, slots)
    _write(cache.scales, scales.to(torch.float32), start_pos, slots)
    _write(cache.zeros, zeros.to(torch.int8), start_pos, slots)


def read(cache: Stored, end: Any) -> torch.Tensor:
    """The first `end` slots, or all, as float32; of a float32 cache always all.

    The runtime's attention takes half and int8 too, and computes them rightly, but 10 and 8 times slower than float32
    (x86): converting what was written so far costs less, and next to nothing for a prompt.
    """
    if cache.numbers.dtype == torch.float32:
        return cache.numbers

    def used(part: torch.Tensor) -> torch.Tensor:
        return part if end is None else part.narrow(1, 0, end)  # a slice would have a size of its own

    if cache.scales is None or cache.zeros is None:
        return used(cache.numbers).to(torch.float32)
    scales, zeros = used(cache.scales).to(torch.float64), used(cache.zeros).to(torch.int64)
    return torch.ops.quantized_decomposed.dequantize_per_token(
        used(cache.numbers), scales, zeros, -128, 127, torch.int8, torch.float32
    )


def ring_slots(positions: torch.Tensor, length: int, heads: int) -> torch.Tensor:
    """Where the tokens at `positions` [S] go in a ring of `length` slots, once per kv head: [heads, S] int64."""
    return torch.remainder(positions, length).repeat(heads, 1)


def ring_mask(positions: torch.Tensor, length: int, window: int) -> torch.Tensor:
    """What is added to the scores of the new tokens with everything that a ring holds.

    Args:
        positions: [S] int64, of the new tokens, which the ring already holds.
        length: slots of the ring, at least window + S - 1, or as many as there are positions.
        window: how many tokens one token sees, itself included.

    Returns:
        [S, length] float32: 0 where the token sees the slot, `MASKED` where it does not.
    """
    slots = torch.arange(length, dtype=torch.long)
    end = positions[-1]
    held = end - torch.remainder(end - slots, length)  # the last position that fell on each slot
    held = torch.where(held < 0, -(1 << 40), held)  # nothing yet
    age = positions.unsqueeze(1) - held.unsqueeze(0)
    return torch.where((age >= 0) & (age < window), 0.0, MASKED)


def causal_order(positions: torch.Tensor, group: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What makes the mask of a cache in order, once it is known how much of it is used.

    Args:
        positions: [S] int64, of the new tokens.
        group: query heads of one kv head.
        length: slots of the cache.

    Returns:
        [group * S, 1] float32, the position that a row of scores belongs to, and [1, length] float32, that of a slot,
        both times -`MASKED`: their difference is 0 or more where the token sees the slot, else `MASKED` or less.
    """
    rows = torch.cat([positions.to(torch.float32) * -MASKED] * group).unsqueeze(1)
    return rows, torch.arange(length, dtype=torch.float32).unsqueeze(0) * -MASKED


def attend(query: torch.Tensor, keys: Stored, values: Stored, call: Call, ring: bool, scale: float) -> torch.Tensor:
    """Attention of new tokens over everything that the cache holds.

    Query heads are grouped over kv heads as in grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        query: [1, heads, S, head dim] float32.
        keys: of one layer, those of the new tokens included.
        values: likewise.
        call: what the layers share.
        ring: whether the cache is a ring.
        scale: factor of the query-key products.

    Returns:
        [1, S, heads, head dim] float32.
    """
    _, heads, length, dim = query.shape
    kv_heads, slots, _, _ = keys.numbers.shape
    numbers = length * heads * dim
    stored = [part for cache in (keys, values) for part in cache if part is not None]
    masks = call.ring_masks if ring else call.order

    # A branch may not be given what has a size that is known only at run time, nor change the cache, and both lay out
    # their results alike. So each reads the size from a tensor, for itself.
    def caches(last: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        used: Any = None
        if not ring:  # a ring is taken as it lies, with a mask
            used = last.item()
            torch._check(used >= 1)
            torch._check(used <= slots)
        half = len(stored) // 2
        return read(Stored(*parts[:half]), used), read(Stored(*parts[half : 2 * half]), used), used

    def one(query: torch.Tensor, first: torch.Tensor, last: torch.Tensor, *parts: torch.Tensor) -> tuple[torch.Tensor]:
        key_cache, value_cache, _ = caches(last, parts)
        # Right for one token alone: then the heads need not change places with the tokens.
        group = heads // kv_heads
        rows = shared_rows(group, kv_heads)
        grouped = query.view(numbers).view(kv_heads, rows * length, group // rows, dim)
        # With a mask the operator takes the cache as it lies.
        start, mask = (0, parts[-1] if rows > 1 else parts[-2]) if ring else (first.item(), None)
        return (single_attention(grouped, key_cache, value_cache, start, scale, mask).view(numbers),)

    def many(query: torch.Tensor, first: torch.Tensor, last: torch.Tensor, *parts: torch.Tensor) -> tuple[torch.Tensor]:
        key_cache, value_cache, used = caches(last, parts)
        mask = parts[-1]
        if not ring:
            key_cache, value_cache = key_cache.narrow(1, 0, used), value_cache.narrow(1, 0, used)
            mask = torch.clamp(parts[-2] - mask.narrow(1, 0, used), max=0.0)
        return (batched_attention(query, key_cache, value_cache, scale, mask).view(numbers),)

    operands = (query.transpose(1, 2).contiguous(), *call.ends, *stored, *masks)
    if call.single is None:
        (out,) = one(*operands)
    elif torch.compiler.is_exporting():
        (out,) = cond_op(call.single, one, many, operands)
    else:
        (out,) = (one if length == 1 else many)(*operands)
    return out.view(1, length, heads, dim)


def shared_rows(group: int, kv_heads: int) -> int:
    """How many of the query heads of a kv head, `group`, are attended to as rows of one product."""
    return group if kv_heads >= SHARED_FROM else 1


def single_start(position: torch.Tensor, group: int, kv_heads: int) -> torch.Tensor:
    """Where `single_attention` is to start for the token at `position`, both [] int64."""
    rows = shared_rows(group, kv_heads)
    return position if rows == 1 else position + 1 - rows


def single_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    start: Any,
    scale: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one token by ExecuTorch's own operator, with the kv heads as its batch.

    The query heads of a kv head are the operator's heads, each of which reads the keys for itself, or its tokens, which
    read them together: with 8 kv heads of 4 and 2,048 keys that is 1.3 times as fast on Android's library.

    Args:
        query: [kv heads, rows, group / rows, head dim] float32.
        key_cache: [kv heads, length, 1, head dim] float32, already holding the new token's keys.
        value_cache: the same for values.
        start: the token sees the slots before `start` + rows. The operator uses it for nothing else as long as its mask
            is not causal, so it may be negative.
        scale: factor of the query-key products.
        mask: [rows, length] float32, added to the scores; None for a cache in order.

    Returns:
        As `query`.
    """
    return torch.ops.llama.custom_sdpa(query, key_cache, value_cache, start, mask, 0.0, False, scale)


def batched_attention(
    query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    """Attention as two batched matrix products, with the kv heads as the batch.

    Args:
        query: [1, S, heads, head dim] float32.
        key_cache: [kv heads, length, 1, head dim] float32.
        value_cache: the same for values.
        scale: factor of the query-key products.
        mask: [group * S, length] float32, added to the scores.

    Returns:
        [S, heads, head dim] float32.
    """
    _, tokens, heads, dim = query.shape
    kv_heads, length, _, _ = key_cache.shape
    keys, values = (cache.view(kv_heads, length, dim) for cache in (key_cache, value_cache))
    # Of three dimensions, because a copy of four after rope lets torch.export conclude a false bound of S.
    rows = (query * scale).view(tokens, heads, dim).transpose(0, 1).contiguous()
    rows = rows.view(kv_heads, heads // kv_heads * tokens, dim)
    weights = torch.softmax(torch.bmm(rows, keys.transpose(1, 2)) + mask, -1)
    out = torch.bmm(weights, values).view(kv_heads, heads // kv_heads, tokens, dim)
    return out.permute(2, 0, 1, 3).contiguous().view(tokens, heads, dim)


def _group_heads(query: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[1, heads, S, head dim] to [kv heads, S, group, head dim]."""
    _, heads, length, dim = query.shape
    return query.transpose(1, 2).view(length, kv_heads, heads // kv_heads, dim).transpose(0, 1).contiguous()


def _ungroup_heads(out: torch.Tensor) -> torch.Tensor:
    """[kv heads, S, group, head dim] to [1, S, heads, head dim]."""
    kv_heads, length, group, dim = out.shape
    return out.transpose(0, 1).contiguous().view(1, length, kv_heads * group, dim)


def softcapped_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    scale: float,
    softcap: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Attention whose scores go through softcap · tanh(score / softcap) (Gemma 2, arXiv:2408.00118).

    custom_sdpa has no such step, so this is written out over the whole cache, in operators that delegates take.

    Args:
        query: [1, heads, S, head dim] float32.
        key_cache: [kv heads, length, 1, head dim] float32, already holding the new tokens' keys.
        value_cache: the same for values.
        scale: factor of the query-key products.
        softcap: limit of the scores.
        mask: [S, length] float32, added to the capped scores.

    Returns:
        [1, S, heads, head dim] float32.
    """
    grouped = _group_heads(query, key_cache.shape[0])
    kv_heads, length, group, dim = grouped.shape
    slots = key_cache.shape[1]
    keys, values = (cache.view(kv_heads, slots, dim) for cache in (key_cache, value_cache))
    scores = torch.bmm(grouped.view(kv_heads, length * group, dim), keys.transpose(1, 2))
    scores = torch.tanh(scores * (scale / softcap)) * softcap
    weights = torch.softmax(scores.view(kv_heads, length, group, slots) + mask.unsqueeze(1), -1)
    out = torch.bmm(weights.view(kv_heads, length * group, slots), values)
    return _ungroup_heads(out.view(kv_heads, length, group, dim))


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: Stored,
    value: Stored,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    call: Call | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a transformers attention layer calls: `key` and `value` are the caches, from `Cache.update`."""
    if kwargs.get("s_aux") is not None:
        raise UserError(f"{type(module).__name__} needs attention with s_aux, which this version cannot export")
    if call is None:
        raise UserError(
            f"{type(module).__name__} hands its attention none of the call's settings, so it cannot be exported"
        )
    layer: Any = module.layer_idx
    if call.attended is not None:
        call.attended.append(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    ring = layer in call.rings
    if softcap is None:
        return attend(query, key, value, call, ring, scale), None
    mask = call.ring_masks[0] if ring else call.full_mask
    assert mask is not None
    return softcapped_attention(query, key.numbers, value.numbers, scale, softcap, mask), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """No mask is built: the attention makes its own."""


AttentionInterface.register(CACHED, _attention)
AttentionMaskInterface.register(CACHED, _no_mask)
