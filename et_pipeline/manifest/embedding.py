"""How to embed texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from et_pipeline.manifest.cost import EmbeddingSpeed
from et_pipeline.manifest.fields import Model


class Similarity(Model):
    """How similar the deployed program finds two texts, for checking a copy of the bundle."""

    first: str = Field(description="A text.")
    second: str = Field(description="Another text.")
    cosine: float = Field(
        ge=-1, le=1, description="Cosine of their embeddings. Another processor may round a little differently."
    )


class Embedding(Model):
    """How a text becomes a vector: tokenizer with its special tokens, 'forward', and nothing after it.

    'forward' takes the token ids as int64 [1, length] without padding, or padded to max_context with a mask, as the
    program's 'signature' says, and gives float32 [1, dimension]. The mask hides the padding, which may be any id.
    """

    dimension: int = Field(ge=1, description="Length of the vector.")
    pooling: Literal["mean", "cls"] = Field(
        description="What the program makes of the tokens' vectors: their mean, or the first one's vector alone."
    )
    normalised: bool = Field(description="Whether the vector has length 1: then a dot product is the cosine.")
    max_tokens: int = Field(
        ge=1, description="Longest text, special tokens included; cut a longer one, and keep its last special token."
    )
    speed: list[EmbeddingSpeed] = Field(default=[], description="Speed on each machine where it was measured.")
    samples: list[Similarity] = Field(default=[], description="Similarities that the deployed program found.")
