"""An encoder in export form: an unmodified transformers encoder, its tokens' vectors pooled to one for the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from et_pipeline.models.rewrites import clean_graph, delegate_friendly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from et_pipeline.models.pooling import Pooling

ONE_TEXT = "et_pipeline_one_text"


class Encoder(nn.Module):
    """One forward call: a whole text to its embedding (Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084).

    A text comes alone and so needs neither padding nor a mask: of a text with 10 tokens, 10 are computed. The wrapped
    model stays as it is: only its config names our attention, and only during `forward`.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling, max_tokens: int) -> None:
        """Wrap a model.

        Args:
            model: an encoder of transformers.
            pooling: how a text's vector is made of its tokens' vectors.
            max_tokens: the longest text.
        """
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.config: Any = model.config

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed a text.

        Args:
            tokens: [1, S] int64 with the special tokens, 1 ≤ S ≤ max_tokens.

        Returns:
            [1, hidden] float32.
        """
        usual = self.config._attn_implementation
        if self.model._supports_attention_backend:
            self.config._attn_implementation = ONE_TEXT
        try:
            vectors = self.model(input_ids=tokens).last_hidden_state
        finally:
            self.config._attn_implementation = usual
        return pool(vectors, None, self.pooling)


def pool(vectors: torch.Tensor, mask: torch.Tensor | None, pooling: Pooling) -> torch.Tensor:
    """Make one vector of each text's tokens (arXiv:1908.10084, section 3).

    Args:
        vectors: [N, S, hidden] of the tokens.
        mask: [N, S], 1 for a token and 0 for padding behind it; None if there is no padding.
        pooling: how.

    Returns:
        [N, hidden].
    """
    if pooling.mode == "cls":
        pooled = vectors[:, 0]
    elif mask is None:
        pooled = vectors.mean(1)
    else:
        # Shares, because a sum of all tokens would need a range that grows with the text.
        weights = mask.to(vectors.dtype)
        pooled = torch.bmm((weights / weights.sum(1, keepdim=True)).unsqueeze(1), vectors).squeeze(1)
    return functional.normalize(pooled, dim=-1) if pooling.normalised else pooled


def padding_id(model: PreTrainedModel) -> int:
    """The id that fills up a shorter text."""
    return getattr(model.config, "pad_token_id", None) or 0


def embed_batch(model: PreTrainedModel, texts: Sequence[Sequence[int]], pooling: Pooling) -> torch.Tensor:
    """Embeddings by the model's own attention, all texts in one padded batch, as sentence-transformers does it.

    Args:
        model: an encoder of transformers.
        texts: token ids with the special tokens.
        pooling: how.

    Returns:
        [N, hidden] float32.
    """
    longest = max(map(len, texts))
    padding = padding_id(model)
    tokens = torch.tensor([[*text, *[padding] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    with torch.no_grad():
        return pool(model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask, pooling)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Every token attends to every other, [1, heads, S, head dim] each; three dimensions go to a delegate whole."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (each.flatten(0, 1) for each in (query, key, value))
    scores = torch.bmm(query * scale, key.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), value).transpose(0, 1).unsqueeze(0), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """One text has no padding to hide."""


AttentionInterface.register(ONE_TEXT, _attention)
AttentionMaskInterface.register(ONE_TEXT, _no_mask)


def export_encoder(encoder: Encoder) -> ExportedProgram:
    """Export with a dynamic number of tokens in [1, max_tokens]; see `decoder.export_decoder`."""
    from torchao.utils import unwrap_tensor_subclass

    unwrap_tensor_subclass(encoder)
    longest = encoder.max_tokens
    example = (torch.zeros(1, min(8, longest), dtype=torch.long),)
    dynamic = {"tokens": {1: Dim("length", min=1, max=longest)}} if longest > 1 else None
    with torch.no_grad(), delegate_friendly(encoder.model):
        program = torch.export.export(encoder, example, dynamic_shapes=dynamic, strict=False)
    clean_graph(program)
    return program


class Sized(Protocol):
    """An encoder of any form."""

    max_tokens: int
    config: Any


def metadata(encoder: Sized) -> dict[str, Any]:
    """Constant methods by which a program says what it is."""
    return {
        "get_max_seq_len": encoder.max_tokens,
        "get_max_context_len": encoder.max_tokens,
        "get_vocab_size": encoder.config.vocab_size,
        "get_embedding_dim": encoder.config.hidden_size,
        "enable_dynamic_shape": True,
    }
