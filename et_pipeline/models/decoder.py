"""A decoder in export form: an unmodified transformers causal LM with its own key/value cache in buffers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers.cache_utils import Cache

from et_pipeline.errors import UserError
from et_pipeline.models.attention import CACHED, update_cache
from et_pipeline.models.rewrites import clean_graph, delegate_friendly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from et_pipeline.settings import ExportForm


class _BufferCache(Cache):
    """What transformers takes for its cache; the storage is the decoder's buffers."""

    def __init__(self, decoder: Decoder, layers: int) -> None:
        # Not super().__init__(): that allocates caches of its own.
        self.decoder = decoder
        self.layers: list[Any] = []
        self.offloading, self.layer_class_to_replicate = False, None
        self.count = layers
        self.start_pos: Any = 0  # a symbolic integer while exporting

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * self.count

    @property
    def is_compileable(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.count

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.start_pos

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.start_pos

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.decoder.form.max_context, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values; hands the whole caches to the attention."""
        keys = self.decoder.get_buffer(f"k_cache_{layer_idx}")
        values = self.decoder.get_buffer(f"v_cache_{layer_idx}")
        for new, cache in ((key_states, keys), (value_states, values)):
            if (new.shape[1], new.shape[3]) != (cache.shape[0], cache.shape[3]):
                raise UserError(
                    f"family {self.decoder.config.model_type} caches {new.shape[1]} heads of {new.shape[3]} numbers "
                    f"where its config says {cache.shape[0]} of {cache.shape[3]}, so it cannot be exported"
                )
        update_cache(keys, key_states, self.start_pos)
        update_cache(values, value_states, self.start_pos)
        return keys, values


class Decoder(nn.Module):
    """One forward call: write the new tokens into the cache, attend, give the last token's logits.

    The wrapped model stays as it is: its config names this attention during `forward` only, so between calls it can
    serve as the reference with its own attention and cache.
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
        _check_supported(model, self.config, form)
        layers = self.config.num_hidden_layers
        heads = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        for layer in range(layers):
            for kind in "kv":
                empty = torch.zeros(heads, form.max_context, 1, dim)
                self.register_buffer(f"{kind}_cache_{layer}", empty, persistent=False)
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
        self.cache.start_pos = start
        usual = self.config._attn_implementation
        self.config._attn_implementation = CACHED
        try:
            return self.model(
                input_ids=tokens,
                position_ids=positions.unsqueeze(0),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,  # the head over a whole prompt would be thrown away
                start_pos=start,
            ).logits
        finally:
            self.config._attn_implementation = usual

    def reset(self) -> None:
        """Empty the cache."""
        for name, buffer in self.named_buffers(recurse=False):
            if "_cache_" in name:
                buffer.zero_()


def _check_supported(model: PreTrainedModel, config: Any, form: ExportForm) -> None:
    family = config.model_type
    if form.prefill_chunk > form.max_context:
        raise UserError(
            f"model.prefill_chunk={form.prefill_chunk} is more than model.max_context={form.max_context}: lower it"
        )
    if not model._supports_attention_backend:
        raise UserError(f"family {family} does not let its attention be replaced, so it cannot be exported")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and form.max_context > longest:
        raise UserError(f"model.max_context={form.max_context} is more than the {longest} positions the model knows")
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    for kind in sorted(set(kinds)):
        if kind == "sliding_attention" and window and window < form.max_context:
            raise UserError(
                f"model.max_context={form.max_context} is more than the sliding window of {window} tokens that some "
                f"layers of this model have: set model.max_context={window} or less"
            )
        if kind not in ("full_attention", "sliding_attention"):
            raise UserError(f"family {family} has layers of kind {kind}, which this version cannot export")
    for rope in _rope_settings(config):
        original = rope.get("original_max_position_embeddings", longest)
        if rope.get("rope_type") in ("dynamic", "longrope") and original and form.max_context > original:
            raise UserError(
                f"model.max_context={form.max_context} is more than the {original} positions for which the model's "
                f"{rope['rope_type']} rotary frequencies are fixed: set model.max_context={original} or less"
            )


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """The rotary settings, one for the model or one per kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    per_layer = [value for value in settings.values() if isinstance(value, dict)]
    return per_layer or [settings]


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
    with torch.no_grad(), delegate_friendly(decoder.model):
        program = torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False)
    calls = sum(node.target is torch.ops.llama.custom_sdpa.default for node in program.graph.nodes)
    if calls != decoder.cache.count:
        raise UserError(
            f"family {decoder.config.model_type} uses the cached attention in {calls} of {decoder.cache.count} layers, "
            "so it cannot be exported"
        )
    clean_graph(program)
    return program


def metadata(decoder: Decoder, bos_id: int, eos_ids: Sequence[int]) -> dict[str, Any]:
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
    }


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write an exported program; `load_program` reads it in any process."""
    with path.open("wb") as stream:
        torch.export.save(program, stream)


def load_program(path: Path) -> ExportedProgram:
    """Read what `save_program` wrote; importing this module has registered the operators that it needs.

    Raises:
        UserError: the file is unreadable.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an exported program: export again")
    return torch.export.load(path)
