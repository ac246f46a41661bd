"""A decoder in export form: an unmodified transformers causal LM with its own key/value cache in buffers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from et_pipeline import gemma
from et_pipeline.architecture import check_context, layer_slots, longest_context
from et_pipeline.errors import UserError
from et_pipeline.models.attention import CACHED, CALL, Call, Stored, empty_cache, ring_slots, see, store, sums_for
from et_pipeline.models.dry_run import check_attention
from et_pipeline.models.late_layers import LateLayers
from et_pipeline.models.mixers import Mixers
from et_pipeline.models.own_cache import OwnCache
from et_pipeline.models.rewrites import clean_graph, delegate_friendly
from et_pipeline.models.rope import freeze_rope
from et_pipeline.states import MIXED, KeysValues, Shared, goes_back, has_mixers, layer_states
from et_pipeline.upstream.cheap import cheap_tracing
from et_pipeline.upstream.program_files import cheap_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from et_pipeline.settings import ExportForm


PROGRAM, WEIGHTS = "program.pt2", "weights.pt"


class _BufferCache(OwnCache):
    """What transformers takes for its cache; the storage is the decoder's buffers."""

    def __init__(self, decoder: Decoder, layers: int) -> None:
        super().__init__(layers)
        self.decoder = decoder
        self.call = Call(0, frozenset())  # while exporting, its start_pos is a symbolic integer

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.call.start_pos

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.decoder.form.max_context, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Stored, Stored]:
        """Write the new tokens' keys and values; hands what is cached to the attention."""
        state, slots = self.decoder.caching[layer_idx], self.call.slots if layer_idx in self.call.rings else None
        found = []
        for kind, new in (("k", key_states), ("v", value_states)):
            if (new.shape[1], new.shape[3]) != (state.heads, state.dim):
                raise UserError(
                    f"family {self.decoder.config.model_type} caches {new.shape[1]} heads of {new.shape[3]} numbers "
                    f"where its config says {state.heads} of {state.dim}, so it cannot be exported"
                )
            cache = self.decoder.stored(kind, layer_idx)
            store(cache, new, self.call.start_pos, slots)
            found.append(cache)
        return found[0], found[1]


class Decoder(nn.Module):
    """One forward call: write the new tokens into the cache, attend, give the last token's logits.

    The wrapped model stays as it is: its config names this attention during `forward` only, so between calls it can
    serve as the reference with its own attention and cache. Only rotary frequencies that transformers would choose
    anew for each call are fixed for good, see `freeze_rope`.
    """

    def __init__(self, model: PreTrainedModel, form: ExportForm) -> None:
        """Wrap a model.

        Args:
            model: a causal LM of transformers.
            form: cache length and the most tokens of one call.

        Raises:
            UserError: the model has layers or positions that this form cannot hold.
        """
        super().__init__()
        self.model = model
        self.form = form
        self.config = model.config.get_text_config()
        check_supported(model, self.config, form)
        freeze_rope(model, form.max_context)
        layers = self.config.num_hidden_layers
        self.window: int | None = getattr(self.config, "sliding_window", None)
        windows = [self.window if kind == "sliding_attention" else None for kind in layer_kinds(self.config)]
        self.states = layer_states(self.config.to_dict(), windows, *_usual_heads(self.config))
        self.ring, self.length = (
            layer_slots(window, form.max_context, form.prefill_chunk) for window in (self.window, None)
        )
        slides = self.window is not None and self.window < form.max_context
        caching = {n: state for n, own in enumerate(self.states) for state in own if isinstance(state, KeysValues)}
        late = {n: state.layer for n, own in enumerate(self.states) for state in own if isinstance(state, Shared)}
        self.caching, self.late, self.first_late = caching, frozenset(late), min(late, default=layers)
        self.attending = sorted([*caching, *late])
        reads = {layer: caching[late.get(layer, layer)] for layer in self.attending}
        self.rings = frozenset(n for n, state in reads.items() if slides and state.window is not None)
        for layer, state in caching.items():
            length = self.ring if layer in self.rings else self.length
            for kind, empty in zip("kv", empty_cache(form.kv_cache, state.heads, length, state.dim), strict=True):
                for name, buffer in zip(_buffer_names(kind, layer), empty, strict=True):
                    if buffer is not None:
                        self.register_buffer(name, buffer, persistent=False)
        if form.kv_cache == "int8":
            for dim in {state.dim for state in caching.values()}:
                self.register_buffer(f"sums_{dim}", sums_for(dim), persistent=False)
        self.mixer = Mixers(self)
        self.late_layers = LateLayers(self)
        self.cache = _BufferCache(self, layers)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """Run the tokens at positions input_pos to input_pos + S - 1.

        Args:
            tokens: [1, S] int64, 1 ≤ S ≤ prefill_chunk.
            input_pos: [1] int64, position of the first token.

        Returns:
            [1, 1, vocabulary] float32 logits after the last token.
        """
        length = tokens.shape[1]
        start: Any = input_pos[0].item()
        torch._check(start >= 0)
        torch._check(start < self.form.max_context)
        torch._check(start + length <= self.form.max_context)
        positions = input_pos[0] + torch.arange(length, dtype=torch.long)
        self.cache.call = call = self._call(start, positions)
        usual, token = self.config._attn_implementation, CALL.set(call)
        self.config._attn_implementation = CACHED
        try:
            with self.mixer.at(positions), self.late_layers.at():
                return self.model(
                    input_ids=tokens,
                    position_ids=positions.unsqueeze(0),
                    past_key_values=self.cache,
                    use_cache=True,
                    logits_to_keep=1,  # the head over a whole prompt would be thrown away
                ).logits
        finally:
            self.config._attn_implementation = usual
            CALL.reset(token)

    def _call(self, start: Any, positions: torch.Tensor) -> Call:
        final = self.config.num_hidden_layers - 1
        sums = {int(name[5:]): buffer for name, buffer in self.named_buffers(recurse=False) if name.startswith("sums_")}
        call = Call(start, self.rings, self.late, sums, final if final in self.caching else None, attended=[])
        kinds = ("whole", None, set(self.attending) - self.rings), ("ring", self.window, set(self.rings))
        for name, window, layers in kinds:
            if not layers:
                continue
            (heads,) = {self.caching[layer].heads for layer in layers if layer in self.caching}
            group, length = self.config.num_attention_heads // heads, self.length if window is None else self.ring
            seen: dict[str, Any] = {}
            if layers - self.late:
                seen[name] = see(positions, group, length, window)
            if layers & self.late:
                seen[f"late_{name}"] = see(positions[-1:], group, length, window)
            if window is not None:
                seen["slots"] = ring_slots(positions, self.ring, heads)
            call = call._replace(**seen)
        return call

    def stored(self, kind: str, layer: int) -> Stored:
        """The buffers with the keys ("k") or values ("v") of a layer."""
        buffers = dict(self.named_buffers(recurse=False))
        numbers, scales = _buffer_names(kind, layer)
        return Stored(buffers[numbers], buffers.get(scales))

    def reset(self) -> None:
        """Empty the cache."""
        for name, buffer in self.named_buffers(recurse=False):
            if _is_cache(name):
                buffer.zero_()


def _buffer_names(kind: str, layer: int) -> tuple[str, str]:
    return f"{kind}_cache_{layer}", f"{kind}_cache_scales_{layer}"


def cached_heads(config: Any) -> tuple[int, int]:
    """How many heads of keys and values each layer caches, and the numbers of each.

    Raises:
        UserError: layers differ in that.
    """
    if config.model_type in gemma.KINDS:
        raise UserError(
            f"family {config.model_type} has layers that read another layer's cache, or cache heads of their own size, "
            "which programs of static shape cannot hold; use backend=xnnpack"
        )
    return _usual_heads(config)


def _usual_heads(config: Any) -> tuple[int, int]:
    if config.model_type == gemma.GEMMA4:  # whose class tells of single layers only
        given = config.to_dict()
        return given["num_key_value_heads"], given["head_dim"]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def check_supported(model: PreTrainedModel, config: Any, form: ExportForm) -> None:
    """Refuse layers and positions that a decoder in export form cannot hold, with a `UserError`."""
    family = config.model_type
    if form.prefill_chunk > form.max_context:
        raise UserError(
            f"model.prefill_chunk={form.prefill_chunk} is more than model.max_context={form.max_context}: lower it"
        )
    longest = longest_context(config.to_dict())
    if longest is not None:
        check_context(form.max_context, longest)
    for kind in sorted(set(layer_kinds(config))):
        if kind not in ("full_attention", "sliding_attention") and not (kind in MIXED and has_mixers(config.to_dict())):
            raise UserError(f"family {family} has layers of kind {kind}, which this version cannot export")
    if getattr(config, "enable_moe_block", False):
        raise UserError(f"this {family} model has a mixture of experts, which this version cannot export")
    check_attention(model, config)


def layer_kinds(config: Any) -> list[str]:
    """What each layer attends to; families without a list do the same in all."""
    kind = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    return getattr(config, "layer_types", None) or [kind] * config.num_hidden_layers


def export_decoder(decoder: Decoder) -> ExportedProgram:
    """Export with a dynamic number of tokens in [1, prefill_chunk].

    Tensor subclasses of torchao are unwrapped in place first (the model computes the same): an exported program with
    plain tensors can be saved and loaded by another process.

    Raises:
        UserError: the family does not go through the replaceable attention.
    """
    from torchao.utils import unwrap_tensor_subclass

    unwrap_tensor_subclass(decoder)
    chunk = decoder.form.prefill_chunk
    example = (torch.zeros(1, min(8, chunk), dtype=torch.long), torch.zeros(1, dtype=torch.long))
    # Dim(min=1, max=1) is refused: one token is not dynamic.
    dynamic = {"tokens": {1: Dim("length", min=1, max=chunk)}, "input_pos": None} if chunk > 1 else None
    with torch.no_grad(), delegate_friendly(decoder.model), cheap_tracing():
        program = torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False)
    attended, attending = decoder.cache.call.attended, decoder.attending
    if attended != attending:
        raise UserError(
            f"family {decoder.config.model_type} uses the cached attention in {len(attended or ())} of "
            f"{len(attending)} layers, so it cannot be exported"
        )
    clean_graph(program)
    return program


class Sized(Protocol):
    """A decoder of any form."""

    form: ExportForm
    config: Any


def metadata(decoder: Sized, bos_id: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Constant methods that ExecuTorch's LLM runner and Android's `LlmModule` read.

    `get_max_seq_len` is mandatory there and means the most tokens of one call; without `enable_dynamic_shape` prefill
    runs token by token.
    """
    return {
        "get_max_seq_len": decoder.form.prefill_chunk,
        "get_max_context_len": decoder.form.max_context,
        "get_vocab_size": decoder.config.vocab_size,
        "get_n_layers": decoder.config.num_hidden_layers,
        "get_bos_id": bos_id,
        "get_eos_ids": list(eos_ids),
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    } | {
        **({"get_adapter_rank": decoder.form.adapter_rank} if decoder.form.adapter_rank else {}),
        **({} if goes_back(getattr(decoder, "states", ())) else {"goes_back": False}),
    }


def save_program(program: ExportedProgram, folder: Path) -> None:
    """Write an exported program as `program.pt2` and `weights.pt`; `load_program` reads it in any process.

    torch's own format holds the weights too, and reads them all into memory. `program` is left without them.
    """
    with (folder / WEIGHTS).open("wb") as stream:  # a path's name would become part of the file
        torch.save(program.state_dict, stream)
    _replace(program.state_dict, lambda _, tensor: _placeholder(tensor))
    _replace(program.constants, lambda name, tensor: _placeholder(tensor) if _is_cache(name) else tensor)
    with (folder / PROGRAM).open("wb") as stream, cheap_files():
        torch.export.save(program, stream)


def load_program(folder: Path) -> ExportedProgram:
    """Read what `save_program` wrote; importing this module has registered the operators that it needs.

    The weights stay mapped to their file, and the empty caches take no memory until somebody writes into them.

    Raises:
        UserError: a file is unreadable.
    """
    if not zipfile.is_zipfile(folder / PROGRAM):
        raise UserError(f"{folder / PROGRAM} is not an exported program: export again")
    with cheap_files():
        program = torch.export.load(folder / PROGRAM)
    try:
        weights = torch.load(folder / WEIGHTS, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise UserError(f"{folder / WEIGHTS} is not a file of weights: export again") from error
    _replace(program.state_dict, lambda name, _: weights[name])
    # numpy asks the system for zeros, which gives them page by page at the first write; torch writes them at once.
    _replace(program.constants, lambda name, tensor: _lazy_zeros(tensor) if _is_cache(name) else tensor)
    return program


def _is_cache(name: str) -> bool:
    return "_cache_" in name


def _lazy_zeros(like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.zeros(like.shape, str(like.dtype).removeprefix("torch.")))


def _placeholder(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same kind that holds a single number."""
    empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _replace(tensors: dict[str, Any], new: Callable[[str, Any], Any]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = new(name, tensor)
