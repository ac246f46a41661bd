"""An encoder with no dynamic shape: each text padded to one length, with a mask, for delegates that want that.

Only operators that NPU compilers take: matrix products, softmax, lookups in tables. What depends on positions alone is
such a table.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn
from transformers import AttentionInterface

from et_pipeline.architecture import OFFSET_POSITIONS
from et_pipeline.models.encoder import metadata, padding_id, pool
from et_pipeline.models.static_decoder import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram
    from transformers import PreTrainedModel

    from et_pipeline.models.pooling import Pooling

PADDED = "et_pipeline_padded_text"


class StaticEncoder(nn.Module):
    """One forward call: a padded text to its embedding (Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084).

    The wrapped model stays as it is: only its config names our attention, and only during `forward`.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling, max_tokens: int) -> None:
        """Wrap a model.

        Args:
            model: an encoder of transformers.
            pooling: how a text's vector is made of its tokens' vectors.
            max_tokens: the length that every text is padded to.
        """
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.config: Any = model.config
        first = padding_id(model) + 1 if self.config.model_type in OFFSET_POSITIONS else 0
        self.register_buffer("positions", torch.arange(first, first + max_tokens).unsqueeze(0), persistent=False)
        self.register_buffer("segments", torch.zeros(1, max_tokens, dtype=torch.long), persistent=False)
        # Looked up, so that their quantization is exact: what is added to scores, and what the pooling counts.
        self.register_buffer("hidden_or_seen", torch.tensor([[MASKED], [0.0]]), persistent=False)
        self.register_buffer("weights", torch.tensor([[0.0], [1.0]]), persistent=False)
        self.biased = hasattr(model.get_submodule("encoder"), "compute_position_bias")
        if self.biased:  # MPNet (Song et al. 2020, arXiv:2004.09297): one bias per distance, the same for every text
            with torch.no_grad():
                bias = model.encoder.compute_position_bias(torch.zeros(1, max_tokens, 1))
            self.register_buffer("bias", bias, persistent=False)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed a text.

        Args:
            tokens: [1, max_tokens] int64, special tokens included, any token's id as padding behind them.
            mask: [1, max_tokens] int64, 1 for a token and 0 for padding.

        Returns:
            [1, hidden] float32.
        """
        given: dict[str, Any] = {"position_ids": self.positions}
        if not self.biased:
            given["token_type_ids"] = self.segments
        scores = nn.functional.embedding(mask, self.get_buffer("hidden_or_seen")).transpose(1, 2).unsqueeze(1)
        with self._own_attention():
            vectors = self.model(input_ids=tokens, attention_mask=scores, **given).last_hidden_state
        weights = nn.functional.embedding(mask, self.get_buffer("weights")).squeeze(-1)
        return pool(vectors, weights, self.pooling)

    @contextmanager
    def _own_attention(self) -> Iterator[None]:
        usual = self.config._attn_implementation
        with ExitStack() as patches:
            if self.model._supports_attention_backend:
                self.config._attn_implementation = PADDED
            if self.biased:
                bias = mock.patch.object(self.model.encoder, "compute_position_bias", return_value=self.bias)
                patches.enter_context(bias)
            try:
                yield
            finally:
                self.config._attn_implementation = usual


def export_static_encoder(encoder: StaticEncoder) -> ExportedProgram:
    """Export the one call that there is."""
    # Not the encoder's own buffers, which the graph would then read from its inputs.
    shape = (1, encoder.max_tokens)
    example = (torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long))
    with torch.no_grad(), ExitStack() as patches:
        for module in encoder.model.modules():
            if isinstance(module, nn.Embedding):  # needed for training only, and blocks a quantized lookup
                patches.enter_context(mock.patch.object(module, "padding_idx", None))
        return torch.export.export(encoder.requires_grad_(False), example, strict=False)


def static_encoder_metadata(encoder: StaticEncoder) -> dict[str, Any]:
    """Constant methods by which a program says what it is; `get_pad_id` says that it takes padded texts and a mask."""
    return metadata(encoder) | {"get_pad_id": padding_id(encoder.model), "enable_dynamic_shape": False}


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Every token attends to every other that is not padding, [1, heads, S, head dim] each."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scale, key.transpose(2, 3)) + attention_mask
    return torch.matmul(scores.softmax(-1), value).transpose(1, 2), None


# The mask comes in its four dimensions, which transformers leaves as they are.
AttentionInterface.register(PADDED, _attention)
