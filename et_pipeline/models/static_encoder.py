"""An encoder with no dynamic shape: each text padded to one length, with a mask, for delegates that want that.

Only operators that NPU compilers take: matrix products, softmax, lookups in tables. What depends on positions alone is
such a table.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn
from transformers import AttentionInterface

from et_pipeline.architecture import OFFSET_POSITIONS
from et_pipeline.models.encoder import check_exportable, dense_of, for_each_head, metadata, padding_id, pool, scores
from et_pipeline.models.reach import Reach, answered, register, unseen
from et_pipeline.models.static_decoder import MASKED, npu_friendly

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

        Raises:
            UserError: its attention or its positions cannot be exported.
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
        self.reaches = check_exportable(model, PADDED, max_tokens)
        self.kinds: list[Reach] = sorted({reach for reach in self.reaches if not reach.is_all}, key=str)
        for number, reach in enumerate(self.kinds):
            table = torch.clamp(unseen(reach, max_tokens, MASKED), min=MASKED)
            self.register_buffer(f"unseen_{number}", table, persistent=False)
        self.segmented = "token_type_ids" in inspect.signature(model.forward).parameters
        self.biased = hasattr(getattr(model, "encoder", None), "compute_position_bias")
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
            [1, dimension] float32.
        """
        given: dict[str, Any] = {"position_ids": self.positions}
        if self.segmented and not self.biased:
            given["token_type_ids"] = self.segments
        padding = nn.functional.embedding(mask, self.get_buffer("hidden_or_seen")).transpose(1, 2).unsqueeze(1)
        if not self.kinds:  # then the padding is all that is to be hidden
            given["attention_mask"] = padding
        with self._own_attention(padding):
            vectors = self.model(input_ids=tokens, **given).last_hidden_state
        weights = nn.functional.embedding(mask, self.get_buffer("weights")).squeeze(-1)
        return pool(vectors, weights, self.pooling, dense_of(self.model))

    @contextmanager
    def _own_attention(self, padding: torch.Tensor) -> Iterator[None]:
        order = iter(self.reaches)
        hidden = {reach: torch.minimum(padding, self.get_buffer(f"unseen_{n}")) for n, reach in enumerate(self.kinds)}
        with ExitStack() as patches:
            if self.model._supports_attention_backend:
                patches.enter_context(answered(self.config, PADDED, lambda *_: hidden.get(next(order), padding)))
            if self.biased:
                bias = mock.patch.object(self.model.encoder, "compute_position_bias", return_value=self.bias)
                patches.enter_context(bias)
            yield


def export_static_encoder(encoder: StaticEncoder) -> ExportedProgram:
    """Export the one call that there is."""
    # Not the encoder's own buffers, which the graph would then read from its inputs.
    shape = (1, encoder.max_tokens)
    example = (torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long))
    with torch.no_grad(), npu_friendly(encoder.model, encoder.max_tokens):
        program = torch.export.export(encoder.requires_grad_(False), example, strict=False)
    program.graph_module.graph.eliminate_dead_code()  # what transformers asks the positions, in vain
    program.graph_module.recompile()
    return program


def static_encoder_metadata(encoder: StaticEncoder) -> dict[str, Any]:
    """Constant methods by which a program says what it is; `get_pad_id` says that it takes padded texts and a mask."""
    return metadata(encoder) | {"get_pad_id": padding_id(encoder.model), "enable_dynamic_shape": False}


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Tokens attend to those that they see and that are no padding, [1, heads, S, head dim] each."""
    key, value = (for_each_head(each, query.shape[1]) for each in (key, value))
    found = scores(module, query, key, attention_mask, scaling, kwargs)
    return torch.matmul(found.softmax(-1), value).transpose(1, 2), None


AttentionInterface.register(PADDED, _attention)
register(PADDED)  # for what hides more than the padding, whose mask transformers leaves as it is
