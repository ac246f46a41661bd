"""A decoder of static shape whose key/value cache comes in and goes out with each call, for prefill in parallel.

A delegate that keeps a cache inside a method cannot show it to another one. Here the caller holds it, so a method that
takes a chunk of a prompt and one that takes a single token work on the same cache, and can share their weights.
"""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from et_pipeline.models.decoder import (
    WEIGHTS,
    cached_heads,
    check_supported,
    load_program,
    metadata,
    save_program,
)
from et_pipeline.models.rope import freeze_rope
from et_pipeline.models.static_decoder import (
    MASKED,
    StaticCache,
    attending,
    attention_kinds,
    check_attended,
    npu_friendly,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.export import ExportedProgram
    from transformers import PreTrainedModel

    from et_pipeline.settings import ExportForm

PREFILL, DECODE = METHODS = ("prefill_forward", "kv_forward")


class _ExternalCache(StaticCache):
    """What transformers takes for its cache; the storage is the call's own."""

    def __init__(self, decoder: ExternalCacheDecoder) -> None:
        super().__init__(decoder)
        self.given: Sequence[torch.Tensor] = ()  # keys of each layer, then values of each
        self.new: dict[int, torch.Tensor] = {}  # in the same order

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the tokens' keys and values behind the cached ones; hands both to the attention."""
        found = []
        for index, new in ((layer_idx, key_states), (layer_idx + len(self), value_states)):
            self.new[index] = new
            found.append(torch.cat([self.given[index], new], 2))
        return found[0], found[1]


class ExternalCacheDecoder(nn.Module):
    """One forward call: attend to a given cache and the call's own tokens; give logits, and what to cache of them."""

    def __init__(self, model: PreTrainedModel, form: ExportForm) -> None:
        """Wrap a model.

        Args:
            model: a causal LM of transformers.
            form: the cache's length, and the tokens of one call of `prefill_forward`.

        Raises:
            UserError: the model has layers or positions that this form cannot hold.
        """
        super().__init__()
        self.model = model
        self.form = form
        self.config = model.config.get_text_config()
        check_supported(model, self.config, form)
        cached_heads(self.config)
        freeze_rope(model, form.max_context)
        self.layers = self.config.num_hidden_layers
        self.kinds = attention_kinds(self.config)
        self.cache = _ExternalCache(self)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, input_pos: torch.Tensor, *caches: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run S tokens.

        Args:
            tokens: [1, S] int64.
            mask: [kinds of attention, S, max_context + S] float32, added to the scores: 0 or `MASKED`. Its kinds are in
                the order of their names, its last S columns for the tokens themselves.
            input_pos: [1, S] int64, their positions.
            caches: [1, kv heads, max_context, head dim] float32 each: keys of all layers, then values of all.

        Returns:
            [1, S, vocabulary] float32 logits, and for each cache its new part, [1, kv heads, S, head dim].
        """
        self.cache.given, self.cache.new, self.cache.attended = caches, {}, []
        kinds = sorted(set(self.kinds))
        masks = {kind: mask[n : n + 1] if len(kinds) > 1 else mask for n, kind in enumerate(kinds)}
        with attending(self, masks):
            logits = self.model(
                input_ids=tokens,
                position_ids=input_pos,
                past_key_values=self.cache,
                use_cache=True,
            ).logits
        return (logits, *(self.cache.new[index] for index in range(len(caches))))


def external_metadata(decoder: ExternalCacheDecoder, bos_id: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Constant methods that say what a caller has to hold; see `CacheDriver`.

    `get_windows` has for each kind of attention in the mask how many tokens back it sees, the token itself counted.
    """
    heads, dim = cached_heads(decoder.config)
    longest = decoder.form.max_context
    windows = {"full_attention": longest, "sliding_attention": getattr(decoder.config, "sliding_window", 0)}
    return metadata(decoder, bos_id, eos_ids) | {
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": False,
        "get_n_kv_heads": heads,
        "get_head_dim": dim,
        "get_windows": [min(windows[kind], longest) for kind in sorted(set(decoder.kinds))],
    }


def save_programs(programs: Mapping[str, ExportedProgram], folder: Path) -> None:
    """Write each program into a folder of its own, their weights once; the programs are left without them."""
    for method, program in programs.items():
        (folder / method).mkdir()
        save_program(program, folder / method)
    first, *others = (folder / method / WEIGHTS for method in programs)
    for other in others:
        if filecmp.cmp(first, other, shallow=False):
            other.unlink()
            other.hardlink_to(first)


def load_programs(folder: Path) -> dict[str, ExportedProgram]:
    """Read what `save_programs` wrote of both methods.

    Raises:
        UserError: a file is unreadable.
    """
    return {method: load_program(folder / method) for method in METHODS}


def export_external(decoder: ExternalCacheDecoder, methods: Mapping[str, Any]) -> dict[str, ExportedProgram]:
    """Export both methods, which are alike but for the number of tokens.

    Args:
        decoder: what to export.
        methods: its `external_metadata`.

    Raises:
        UserError: the family does not go through the replaceable attention.
    """
    driver = CacheDriver(lambda *_: (), methods)
    decoder.requires_grad_(False)
    programs = {}
    with torch.no_grad(), npu_friendly(decoder.model, decoder.form.max_context):
        for method in METHODS:
            example = driver.inputs(method, [0], 0)
            programs[method] = torch.export.export(decoder, example, strict=False)
            check_attended(decoder)
    return programs


class CacheDriver:
    """Holds the caches beside a program of this form, and feeds it any number of tokens."""

    def __init__(
        self, call: Callable[[str, tuple[torch.Tensor, ...]], Sequence[torch.Tensor]], methods: Mapping[str, Any]
    ) -> None:
        """Start with empty caches.

        Args:
            call: runs the method of this name with these inputs: an eager module's, an exported one's or a .pte's.
            methods: the program's constant methods, `external_metadata`.
        """
        self.call = call
        self.context, self.chunk = methods["get_max_context_len"], methods["get_max_seq_len"]
        self.windows: list[int] = methods["get_windows"]
        shape = (1, methods["get_n_kv_heads"], self.context, methods["get_head_dim"])
        self.caches = [torch.zeros(shape) for _ in range(2 * methods["get_n_layers"])]

    def inputs(self, method: str, tokens: Sequence[int], start: int) -> tuple[torch.Tensor, ...]:
        """What `method` takes for tokens at the positions from `start` on, padded at their end; see the decoder."""
        size = self.chunk if method == PREFILL else 1
        ids = torch.zeros(1, size, dtype=torch.long)
        ids[0, : len(tokens)] = torch.tensor(tokens)
        # What is padded can lie behind the context's end. It comes last, so that no token sees it.
        positions = torch.arange(start, start + size)
        slots = torch.cat([torch.arange(self.context), positions])
        written = torch.cat([torch.arange(self.context) < start, torch.ones(size, dtype=torch.bool)])
        age = positions.unsqueeze(1) - slots
        seen = torch.stack([written & (age >= 0) & (age < window) for window in self.windows])
        mask = torch.where(seen, 0.0, MASKED)
        return ids, mask, positions.clamp(max=self.context - 1).unsqueeze(0), *self.caches

    def feed(self, tokens: Sequence[int], start: int = 0, chunk: int | None = None) -> torch.Tensor:
        """Run tokens that follow `start` earlier ones, and cache them.

        Args:
            tokens: N ids; start + N ≤ max_context.
            start: position of the first. What the caches hold from there on is overwritten.
            chunk: tokens of one call, at most prefill_chunk; a single token goes through `kv_forward`.

        Returns:
            [N, vocabulary] float32 logits after each token.
        """
        rows = []
        size = chunk or self.chunk
        for offset in range(0, len(tokens), size):
            piece, at = tokens[offset : offset + size], start + offset
            method = DECODE if len(piece) == 1 else PREFILL
            logits, *new = self.call(method, self.inputs(method, piece, at))
            for cache, part in zip(self.caches, new, strict=True):
                cache[:, :, at : at + len(piece)] = part[:, :, : len(piece)]
            rows.append(logits[0, : len(piece)].float())
        return torch.cat(rows)
