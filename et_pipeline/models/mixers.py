"""Layers that remember a state of fixed size instead of keys and values: what they compute in a decoder.

transformers computes one token in one way and several in another, and scans these in a loop. A program has one form for
any number of tokens, of matrix products alone, which delegates have: all tokens of a call are one chunk of the chunked
form (Yang et al. 2024, arXiv:2412.06464, section 3; Dao & Gu 2024, arXiv:2405.21060, section 6), which for one token is
the recurrent form. Within `Mixers.at` these take the place of the modules' own forwards.

What stands before the first token of a sequence is nothing: at position 0 a state is multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from et_pipeline.models.attention import MASKED
from et_pipeline.states import mixed_shape


class Chunk(NamedTuple):
    """What the mixers of one call share.

    Attributes:
        keep: [1, 1, 1], 0 at the beginning of a sequence and otherwise 1.
        ones: [1, 1, S], ones.
        until: [1, S, S], 1 where the column is not after the row.
        after: [1, S, S], 0 there, and otherwise so low that its exponential is 0.
        levels: masks [1, S, S] of ever larger blocks below the diagonal, see `_solve`.
    """

    keep: torch.Tensor
    ones: torch.Tensor
    until: torch.Tensor
    after: torch.Tensor
    levels: tuple[torch.Tensor, ...]


def _chunk(positions: torch.Tensor, level: torch.Tensor) -> Chunk:
    """What the tokens at `positions` [S] share; `level` is `_levels` of the most tokens of a call."""
    count = max(0, level.shape[1] - 2).bit_length()
    tokens = positions.shape[0]
    within = (positions - positions[0]).to(torch.float32)
    distance = within.view(1, -1, 1) - within.view(1, 1, -1)
    own = level.narrow(1, 0, tokens).narrow(2, 0, tokens)
    return Chunk(
        torch.clamp(positions[:1].to(torch.float32), max=1.0).view(1, 1, 1),
        within.view(1, 1, -1) * 0.0 + 1.0,
        torch.clamp(distance + 1.0, 0.0, 1.0),
        torch.clamp(distance * -MASKED, max=0.0),
        tuple(torch.clamp(1.0 - torch.abs(own - float(n)), min=0.0) for n in range(count)),
    )


def _levels(most: int) -> torch.Tensor:
    """At which level of halving a row and an earlier column are parted, -1: a later one. [1, most + 1, most + 1]."""
    numbers = torch.arange(most + 1)  # a part that might be the whole would bind the number of tokens
    rows, columns = numbers.unsqueeze(1), numbers.unsqueeze(0)
    parted = torch.log2((rows ^ columns).clamp(min=1).to(torch.float32)).floor()
    return torch.where(rows > columns, parted, -1.0).unsqueeze(0)


def _solve(below: torch.Tensor, chunk: Chunk, right: torch.Tensor) -> torch.Tensor:
    """X of (1 + below) x = right, where `below` [heads, S, S] counts below the diagonal.

    The inverse is made of blocks of 1, 2, 4, ... rows: that of two neighbours A and B with C below A is A⁻¹, B⁻¹, and
    -B⁻¹ C A⁻¹ in C's place, for all blocks of a level in two products. Each level is the inverse of a part of the
    matrix, so no number grows as powers of the matrix would.
    """
    inverse: torch.Tensor | None = None
    for mask in chunk.levels:
        part = below * mask
        if inverse is None:
            right, first = right, part
            inverse = -first
            continue
        left = part + torch.bmm(part, inverse)  # inverse is without its diagonal of ones
        inverse = inverse - left - torch.bmm(inverse, left)
    return right if inverse is None else right + torch.bmm(inverse, right)


class Decays(NamedTuple):
    """How much of what came earlier is left, of each head.

    Attributes:
        before: [heads, S, 1], of what stood before the chunk, at each token; 0 at the beginning of a sequence.
        between: [heads, S, S], of a token (column) at a later one or itself (row); 0 above the diagonal.
        after: [heads, S, 1], of each token behind the chunk.
        whole: [heads, 1, 1], of what stood before the chunk, behind it.
    """

    before: torch.Tensor
    between: torch.Tensor
    after: torch.Tensor
    whole: torch.Tensor


def _decays(logs: torch.Tensor, chunk: Chunk) -> Decays:
    """Of the logarithm of what each token leaves, [1, S, heads]."""
    running, whole = torch.bmm(chunk.until, logs), torch.bmm(chunk.ones, logs)
    rows, columns, whole = running.permute(2, 1, 0), running.permute(2, 0, 1), whole.permute(2, 1, 0)
    return Decays(
        torch.exp(rows) * chunk.keep,
        torch.exp(rows - columns + chunk.after),
        torch.exp(whole - rows),
        torch.exp(whole) * chunk.keep,
    )


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) of operators that delegates have, exact for small results (Kahan's log1p)."""
    small = torch.exp(-torch.abs(x))
    one_and = 1 + small
    logarithm = torch.log(one_and) * (small / torch.clamp(one_and - 1, min=1e-30))
    return torch.relu(x) + logarithm


class Mixers:
    """The layers of a decoder that have no keys and values, and their states, which are the decoder's buffers."""

    def __init__(self, decoder: Any) -> None:
        """Give a decoder the buffers that its `states` ask for."""
        self.decoder = decoder
        self.chunk: Chunk | None = None
        self.modules = [module for module in decoder.model.modules() if type(module).__name__ in _MIXERS]
        for layer, states in enumerate(decoder.states):
            for state in states:
                shape = mixed_shape(state)
                if shape is not None:
                    decoder.register_buffer(f"{state.kind}_cache_{layer}", torch.zeros(shape), persistent=False)
        for module in self.modules:
            weight = next(each for each in module.modules() if isinstance(each, nn.Conv1d)).weight.detach()
            for n in range(weight.shape[2]):  # of a parameter they would be cut out for each call
                factor = weight[:, :, n].transpose(0, 1).unsqueeze(0).contiguous()  # [1, 1, channels]
                decoder.register_buffer(f"factor_{module.layer_idx}_{n}", factor, persistent=False)
        for size in {size for module in self.modules for size in _MEANS[type(module).__name__](module)}:
            decoder.register_buffer(f"mean_{size}", torch.full((1, size), 1.0 / size), persistent=False)
        if self.modules:
            decoder.register_buffer("levels", _levels(decoder.form.prefill_chunk), persistent=False)

    @contextmanager
    def at(self, positions: torch.Tensor) -> Iterator[None]:
        """Within the context these layers compute as this module says, for tokens at `positions` [S]."""
        with ExitStack() as patches:
            if self.modules:
                self.chunk = _chunk(positions, self.decoder.get_buffer("levels"))
            for module in self.modules:
                forward = partial(_MIXERS[type(module).__name__], module, self)
                patches.enter_context(mock.patch.object(module, "forward", forward))
            yield

    def convolved(self, layer: int, new: torch.Tensor, convolution: nn.Conv1d) -> torch.Tensor:
        """A causal convolution of each channel over its last inputs and new ones, [1, S, channels] each."""
        assert self.chunk is not None
        window = self.decoder.get_buffer(f"convolution_cache_{layer}")
        width, tokens = window.shape[1], new.shape[1]
        inputs = torch.cat([window * self.chunk.keep, new], 1)
        window.copy_(inputs.narrow(1, tokens, width))
        parts = [inputs.narrow(1, n, tokens) * self.decoder.get_buffer(f"factor_{layer}_{n}") for n in range(width + 1)]
        found = reduce(torch.add, parts)
        return found if convolution.bias is None else found + convolution.bias

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Over the last dimension, kept as 1."""
        return functional.linear(x, self.decoder.get_buffer(f"mean_{x.shape[-1]}"))


def _normalised(mixer: Mixers, x: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(mixer.mean(x * x) + eps)


def _heads_first(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[1, S, heads · dim] as [heads, S, dim]."""
    return x.view(x.shape[1], heads, -1).permute(1, 0, 2)


def _short_convolution(module: Any, mixer: Mixers, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Of LFM2: a convolution between two gates."""
    before, after, x = module.in_proj(hidden_states).chunk(3, -1)
    convolved = mixer.convolved(module.layer_idx, before * x, module.conv)
    return module.out_proj(after * convolved)


def _delta_rule(module: Any, mixer: Mixers, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Of Qwen3.5: the gated delta rule. A token decays the matrix, and puts right what it holds at the token's key."""
    chunk, layer, tokens = mixer.chunk, module.layer_idx, hidden_states.shape[1]
    assert chunk is not None
    mixed = ACT2FN[module.activation](mixer.convolved(layer, module.in_proj_qkv(hidden_states), module.conv1d))
    query, key, value = mixed.split([module.key_dim, module.key_dim, module.value_dim], -1)
    values, keys = module.num_v_heads, module.num_k_heads
    unit = partial(_unit, mixer, size=module.head_k_dim)
    query = unit(query.view(1, tokens, keys, -1)) * module.head_k_dim**-0.5
    query, key = (_heads_first(_repeated(each, values // keys), values) for each in (query, unit(key.view_as(query))))
    value = _heads_first(value, values)
    rate = torch.sigmoid(module.in_proj_b(hidden_states)).permute(2, 1, 0)  # [heads, S, 1]
    logs = -torch.exp(module.A_log) * _softplus(module.in_proj_a(hidden_states) + module.dt_bias)
    decays = _decays(logs, chunk)
    state = mixer.decoder.get_buffer(f"recurrent_cache_{layer}")
    turned = key.transpose(1, 2)
    known = torch.bmm(key * decays.before, state)
    right = _solve(torch.bmm(key, turned) * decays.between * rate, chunk, (value - known) * rate)
    out = torch.bmm(query * decays.before, state) + torch.bmm(torch.bmm(query, turned) * decays.between, right)
    state.copy_(state * decays.whole + torch.bmm((key * decays.after).transpose(1, 2), right))
    gate = module.in_proj_z(hidden_states).view(tokens, values, -1)
    out = _normalised(mixer, out.permute(1, 0, 2), module.norm.variance_epsilon) * module.norm.weight
    return module.out_proj((out * functional.silu(gate)).reshape(1, tokens, -1))


def _unit(mixer: Mixers, x: torch.Tensor, size: int) -> torch.Tensor:
    return x * torch.rsqrt(mixer.mean(x * x) * size + 1e-6)


def _repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    """[1, S, heads, dim] with each head several times, one after the other, as [1, S, heads · times · dim]."""
    _, tokens, heads, dim = x.shape
    if times > 1:
        x = x.unsqueeze(3).expand(1, tokens, heads, times, dim)
    return x.reshape(1, tokens, heads * times * dim)


def _mamba(module: Any, mixer: Mixers, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Of Granite 4: Mamba-2. A token decays the matrix, and adds its input at its key, as long as its step is."""
    chunk, layer, tokens = mixer.chunk, module.layer_idx, hidden_states.shape[1]
    assert chunk is not None
    heads, groups, size, inner = module.num_heads, module.n_groups, module.ssm_state_size, module.intermediate_size
    gate, mixed, step = module.in_proj(hidden_states).split([inner, module.conv_dim, heads], -1)
    mixed = ACT2FN[module.activation](mixer.convolved(layer, mixed, module.conv1d))
    x, key, query = mixed.split([inner, groups * size, groups * size], -1)
    step = _softplus(step + module.dt_bias)
    low, high = module.time_step_limit
    if (low, high) != (0.0, float("inf")):
        step = torch.clamp(step, low, high)
    decays = _decays(-torch.exp(module.A_log) * step, chunk)
    key, query = (
        _heads_first(_repeated(each.view(1, tokens, groups, size), heads // groups), heads) for each in (key, query)
    )
    x = _heads_first(x, heads)
    long = x * step.permute(2, 1, 0)
    state = mixer.decoder.get_buffer(f"recurrent_cache_{layer}")
    out = torch.bmm(query * decays.before, state)
    out = out + torch.bmm(torch.bmm(query, key.transpose(1, 2)) * decays.between, long) + x * module.D.view(-1, 1, 1)
    state.copy_(state * decays.whole + torch.bmm((key * decays.after).transpose(1, 2), long))
    out = out.permute(1, 0, 2).reshape(1, tokens, inner) * functional.silu(gate)
    group = module.norm.group_size
    out = _normalised(mixer, out.view(1, tokens, inner // group, group), module.norm.variance_epsilon)
    return module.out_proj(out.reshape(1, tokens, inner) * module.norm.weight)


_MIXERS: dict[str, Callable[..., torch.Tensor]] = {
    "Lfm2ShortConv": _short_convolution,
    "Qwen3_5GatedDeltaNet": _delta_rule,
    "GraniteMoeHybridMambaLayer": _mamba,
}
# Over how many numbers each takes means.
_MEANS: dict[str, Callable[[Any], set[int]]] = {
    "Lfm2ShortConv": lambda module: set(),
    "Qwen3_5GatedDeltaNet": lambda module: {module.head_k_dim, module.head_v_dim},
    "GraniteMoeHybridMambaLayer": lambda module: {module.norm.group_size},
}
