"""Attention over a key/value cache that lies `[kv heads, length, 1, head dim]`.

It is two matrix products for each kv head, which delegates have, for one token as for many: the query heads of a kv
head are rows of one product and read its keys together. The products go over as many slots as are used, in steps of
`STEP`. These lie in one piece, the first part of the head's, so nothing is transposed and nothing copied to get them,
see `upstream.prefixes`; only fp16 and int8 become fp32 first. The scales of int8 go to the scores and to the shares, of
which there are fewer than numbers when one token is computed, and a key's zero is one number more of the key, which the
query has its sum for (`sums_for`). What a step has that was not written yet is multiplied by
0, so it must not be infinite; ExecuTorch's `Module` begins with zeros.

The 1 is the number of heads to ExecuTorch's operator that writes, which takes the kv heads for a batch.

A layer with a sliding window (Beltagy et al. 2020, arXiv:2004.05150) has a shorter cache, a ring: the token at position
p lies in slot p modulo its length. Which position a slot holds is computed from the last position written, so the ring
has no state beside the keys and values, and a sequence that starts again at 0 needs no reset. Going back by more than
the ring is longer than the window needs the tokens in between again: their predecessors were overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import executorch.extension.llm.custom_ops.custom_ops  # registers llama::update_cache
import executorch.kernels.quantized  # noqa: F401  registers what lowering calls for quantized_decomposed
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed::quantize_per_token
from torch.nn import functional
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
SMALLEST = 1e-12  # scale of an int8 row of zeros


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
    sums: Mapping[int, torch.Tensor] = {}  # `sums_for` each size of int8 keys
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
    """The keys or the values of one layer as they are kept: numbers, and of int8 how each token and head is scaled.

    int8 keys are `scale * (number - zero)`, and their zero stands behind their numbers; values are `scale * number`.
    """

    numbers: torch.Tensor  # [kv heads, length, 1, head dim] float32, float16 or int8; int8 keys have head dim + 1
    scales: torch.Tensor | None = None  # [kv heads, length, 1, 1] float32


def empty_cache(kind: KvCache, heads: int, length: int, dim: int) -> tuple[Stored, Stored]:
    """Empty caches of keys and of values, of one of the kinds of `model.kv_cache`; `length` is one of `layer_slots`."""
    all_numbers, one = (heads, length, 1, dim), (heads, length, 1, 1)
    if kind != "int8":
        dtype = torch.float16 if kind == "fp16" else torch.float32
        return Stored(torch.zeros(all_numbers, dtype=dtype)), Stored(torch.zeros(all_numbers, dtype=dtype))
    keys = torch.zeros((heads, length, 1, dim + 1), dtype=torch.int8)
    return Stored(keys, torch.zeros(one)), Stored(torch.zeros(all_numbers, dtype=torch.int8), torch.zeros(one))


def store(cache: Stored, states: torch.Tensor, start_pos: int, slots: torch.Tensor | None = None) -> None:
    """Write the keys or the values of new tokens.

    Args:
        cache: is changed.
        states: [1, kv heads, S, head dim] float32.
        start_pos: position of the first token, and its slot where `slots` is None.
        slots: [kv heads, S] int64, the tokens' places in a ring.
    """
    _, heads, tokens, dim = states.shape
    rows = states.contiguous().view(heads, tokens, 1, dim)
    if cache.scales is None:
        _write(cache.numbers, rows.to(cache.numbers.dtype), start_pos, slots)
        return
    numbers, scales = (_rounded_keys if cache.numbers.shape[3] > dim else _rounded_values)(rows)
    _write(cache.numbers, numbers, start_pos, slots)
    _write(cache.scales, scales.to(torch.float32), start_pos, slots)


def _rounded_keys(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and scales; the zero is what makes a row of one sign use all of int8."""
    operators = torch.ops.quantized_decomposed
    scales, zeros = operators.choose_qparams_per_token_asymmetric(rows, torch.int8)
    numbers = operators.quantize_per_token(rows, scales, zeros, -128, 127, torch.int8)
    return torch.cat([numbers, zeros.to(torch.int8)], -1), scales


def _rounded_values(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = torch.clamp(torch.amax(torch.abs(rows), -1, keepdim=True) * (1 / 127), min=SMALLEST).to(torch.float64)
    zeros = torch.zeros_like(scales, dtype=torch.int64)
    return torch.ops.quantized_decomposed.quantize_per_token(rows, scales, zeros, -128, 127, torch.int8), scales


def read(cache: Stored, head: int, used: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The first `used` slots of a kv head: numbers as float32, [1, used, head dim], and of int8 scales, [1, 1, used].

    The two are not multiplied, as a product with the numbers has less to multiply.
    """
    numbers = first_slots(cache.numbers, head, used)
    if cache.scales is None:
        return numbers.to(torch.float32), None
    widen = torch.ops.quantized_decomposed.dequantize_per_tensor  # a conversion that XNNPACK has
    scales = first_slots(cache.scales, head, used).transpose(1, 2)
    return widen(numbers, 1.0, 0, -128, 127, torch.int8), scales


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


def sums_for(dim: int) -> torch.Tensor:
    """What makes of a query, [dim], the query and what multiplies a key's zero, behind its numbers: minus its sum."""
    return torch.cat([torch.eye(dim), -torch.ones(1, dim)])


def attend(
    query: torch.Tensor,
    keys: Stored,
    values: Stored,
    seen: Seen,
    scale: float,
    softcap: float | None = None,
    sums: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of new tokens over what they see of the cache.

    Query heads are grouped over kv heads as in grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        query: [1, heads, S, head dim] float32.
        keys: of one layer, those of the new tokens included.
        values: likewise.
        seen: how much of them, and with which mask.
        scale: factor of the query-key products.
        sums: of int8 keys, `sums_for` their size.
        softcap: limit of the scores, which go through softcap · tanh(score / softcap) (Gemma 2, arXiv:2408.00118).

    Returns:
        [1, S, heads, head dim] float32.
    """
    _, heads, tokens, dim = query.shape
    kv_heads = keys.numbers.shape[0]
    query = query * (scale if softcap is None else scale / softcap)
    if sums is not None:
        query = functional.linear(query, sums)
    rows = query.view(heads, tokens, -1).contiguous().view(kv_heads, heads // kv_heads * tokens, -1)
    parts = []
    for head in range(kv_heads):
        (key, key_scales), (value, value_scales) = (read(each, head, seen.used) for each in (keys, values))
        scores = torch.bmm(rows.narrow(0, head, 1), key.transpose(1, 2))
        if key_scales is not None:
            scores = scores * key_scales
        if softcap is not None:
            scores = torch.tanh(scores) * softcap
        shares = torch.softmax(scores + seen.mask, -1)
        parts.append(torch.bmm(shares if value_scales is None else shares * value_scales, value))
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
    scale, sums = query.shape[-1] ** -0.5 if scaling is None else scaling, call.sums.get(query.shape[-1])
    if layer != call.final:
        return attend(query, key, value, seen, scale, softcap, sums), None
    out = attend(query[:, :, -1:], key, value, seen._replace(mask=seen.last), scale, softcap, sums)
    return out.expand(-1, query.shape[2], -1, -1), None  # of the others nothing is used


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """No mask is built: the attention makes its own."""


AttentionInterface.register(CACHED, _attention)
AttentionMaskInterface.register(CACHED, _no_mask)
