"""How to embed texts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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
    """How a text becomes a vector: a prompt before it, tokenizer with its special tokens, 'forward'.

    Nothing has to be done after that. Whoever wants a shorter vector takes the first numbers, as many as one of
    'dimensions' says, and where 'normalised' says so divides them by their length.

    'forward' takes the token ids as int64 [1, length] without padding, or padded to max_context with a mask, as the
    program's 'signature' says, and gives float32 [1, dimension]. The mask hides the padding, which may be any id.
    """

    dimension: int = Field(ge=1, description="Length of the vector.")
    dimensions: list[int] = Field(
        default=[],
        description="Shorter lengths that the model was trained to be cut to (Matryoshka), the longest first.",
    )
    prompts: dict[str, str] = Field(
        default={},
        description="What goes before a text, by what the text is for, such as 'query' and 'document'; may be empty.",
    )
    default_prompt: str | None = Field(
        default=None, description="Name of the prompt for a text of which nothing is said; null for none."
    )
    pooling: Literal["mean", "cls", "lasttoken"] = Field(
        description="What the program makes of the tokens' vectors: their mean, or the first or the last one's alone, "
        "and what linear layers make of that."
    )
    normalised: bool = Field(description="Whether the vector has length 1: then a dot product is the cosine.")
    max_tokens: int = Field(
        ge=1, description="Longest text, special tokens included; cut a longer one, and keep its last special token."
    )
    speed: list[EmbeddingSpeed] = Field(default=[], description="Speed on each machine where it was measured.")
    samples: list[Similarity] = Field(
        default=[], description="Similarities that the deployed program found, without any prompt."
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ValueError(f"'default_prompt' is '{self.default_prompt}', which is not in 'prompts'")
        if any(not 0 < each < self.dimension for each in self.dimensions):
            raise ValueError(f"'dimensions' must lie between 0 and {self.dimension}, the whole length")
        return self
