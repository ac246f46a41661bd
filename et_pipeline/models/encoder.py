"""An encoder in export form: an unmodified transformers encoder, its tokens' vectors pooled to one for the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from transformers import AttentionInterface

from et_pipeline.architecture import ENCODERS
from et_pipeline.errors import UserError
from et_pipeline.models.reach import Reach, answered, find_reaches, masks, register
from et_pipeline.models.rewrites import clean_graph, delegate_friendly
from et_pipeline.models.rope import check_constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedModel

    from et_pipeline.models.pooling import Pooling

ONE_TEXT = "et_pipeline_one_text"
DENSE = "dense"  # where a model has the linear layers behind its pooling

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
}


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

        Raises:
            UserError: its attention or its positions cannot be exported.
        """
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.config: Any = model.config
        self.reaches = check_exportable(model, ONE_TEXT, max_tokens)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed a text.

        Args:
            tokens: [1, S] int64 with the special tokens, 1 ≤ S ≤ max_tokens.

        Returns:
            [1, dimension] float32.
        """
        if not self.model._supports_attention_backend:
            vectors = self.model(input_ids=tokens).last_hidden_state
        else:
            with answered(self.config, ONE_TEXT, masks(self.reaches)):
                vectors = self.model(input_ids=tokens).last_hidden_state
        return pool(vectors, None, self.pooling, dense_of(self.model))


def check_exportable(model: PreTrainedModel, implementation: str, longest: int) -> list[Reach]:
    """How far tokens see in each kind of layer; see `find_reaches`.

    Raises:
        UserError: the model's attention or its positions cannot be exported.
    """
    check_constant(model)
    if model._supports_attention_backend:
        return find_reaches(model, implementation, longest)
    family = model.config.model_type
    if family not in ENCODERS:
        raise UserError(f"family {family} does not let its attention be replaced, so it cannot be exported")
    return []


def dense_of(model: PreTrainedModel) -> Iterable[nn.Module]:
    """The linear layers behind the pooling, as the skeleton has them."""
    found: Iterable[nn.Module] = getattr(model, DENSE, ())
    return found


def pool(
    vectors: torch.Tensor, mask: torch.Tensor | None, pooling: Pooling, dense: Iterable[nn.Module] = ()
) -> torch.Tensor:
    """Make one vector of each text's tokens (arXiv:1908.10084, section 3).

    Args:
        vectors: [N, S, hidden] of the tokens.
        mask: [N, S], 1 for a token and 0 for padding behind it; None if there is no padding.
        pooling: how.
        dense: its linear layers.

    Returns:
        [N, dimension].
    """
    if pooling.mode == "cls":
        pooled = vectors[:, 0]
    elif mask is None:
        pooled = vectors.mean(1) if pooling.mode == "mean" else vectors[:, -1]
    else:
        weights = mask.to(vectors.dtype)
        if pooling.mode == "mean":  # shares, because a sum of all tokens would need a range that grows with the text
            weights = weights / weights.sum(1, keepdim=True)
        else:  # the token behind which there is none: the difference is 1 there, and 0 elsewhere
            weights = weights - functional.pad(weights[:, 1:], (0, 1))
        pooled = torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)
    for layer, which in zip(dense, pooling.dense, strict=True):
        pooled = _ACTIVATIONS[which.activation](layer(pooled))
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
        [N, dimension] float32.
    """
    longest = max(map(len, texts))
    padding = padding_id(model)
    tokens = torch.tensor([[*text, *[padding] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    with torch.no_grad():
        vectors = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return pool(vectors, mask, pooling, dense_of(model))


def scores(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """How much every token attends to every other, before the softmax; [.., S, head dim] each.

    Raises:
        UserError: the family's attention has something else.
    """
    if kwargs.get("s_aux") is not None:
        raise UserError(f"{type(module).__name__} needs attention with s_aux, which this version cannot export")
    softcap = kwargs.get("softcap")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = torch.matmul(query * (scale if softcap is None else scale / softcap), key.transpose(-2, -1))
    if softcap is not None:
        found = torch.tanh(found) * softcap
    return found if mask is None else found + mask


def for_each_head(keys: torch.Tensor, heads: int) -> torch.Tensor:
    """Keys or values [1, kv heads, S, head dim] for each head of the queries (arXiv:2305.13245)."""
    one, kv_heads, tokens, dim = keys.shape
    if kv_heads == heads:
        return keys
    wide = keys.unsqueeze(2).expand(one, kv_heads, heads // kv_heads, tokens, dim)
    return wide.reshape(one, heads, tokens, dim)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Tokens attend to those that they see, [1, heads, S, head dim] each; three dimensions go to a delegate whole."""
    heads = query.shape[1]
    query, key, value = (each.flatten(0, 1) for each in (query, *(for_each_head(x, heads) for x in (key, value))))
    found = scores(module, query, key, attention_mask, scaling, kwargs)
    return torch.bmm(found.softmax(-1), value).transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(ONE_TEXT, _attention)
register(ONE_TEXT)


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
    pooling: Pooling


def metadata(encoder: Sized) -> dict[str, Any]:
    """Constant methods by which a program says what it is."""
    return {
        "get_max_seq_len": encoder.max_tokens,
        "get_max_context_len": encoder.max_tokens,
        "get_vocab_size": encoder.config.vocab_size,
        "get_embedding_dim": encoder.pooling.dimension(encoder.config.hidden_size),
        "enable_dynamic_shape": True,
    }
