"""What deployment cost in quality, who says what the original computes, and the verdict."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from et_pipeline.manifest.fields import Fraction, Model, Percent

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Agreement(Model):
    """How near the program's logits are to a reference, over all compared tokens."""

    positions: int = Field(ge=1, description="Number of compared tokens.")
    cosine: float = Field(ge=-1, le=1, description="Mean cosine similarity of the logits; 1 is equal.")
    min_cosine: float = Field(ge=-1, le=1, description="Lowest cosine similarity of any token.")
    max_abs_diff: float = Field(ge=0, description="Largest difference of a logit.")
    kl: float = Field(description="Mean KL divergence from the reference, in nats per token; 0 is equal.")
    kl_interval: Interval | None = Field(
        default=None, description="Of 95 %, from resampling the sequences; null where there is one sequence only."
    )
    top1: Fraction = Field(description="Share of tokens whose most probable next token is the same; 1 is all.")


class WaysOfFeeding(Model):
    """Agreement for each way in which a prompt can be fed; all must give the same."""

    one_piece: Agreement = Field(description="The whole text in one call.")
    chunked: Agreement = Field(description="In pieces of at most prefill_chunk tokens.")
    token_by_token: Agreement = Field(description="One token per call, as in generation.")


class Comparison(Model):
    """The program against eager models."""

    quantized: WaysOfFeeding = Field(description="Against the eager quantized model: is the export right?")
    original: WaysOfFeeding = Field(description="Against the original model: is the quantization good?")


class EmbeddingAgreement(Model):
    """How near the program's embeddings are to a reference, over a list of different texts."""

    texts: int = Field(ge=2, description="Number of compared texts.")
    cosine: float = Field(ge=-1, le=1, description="Mean cosine similarity of the embeddings; 1 is equal.")
    min_cosine: float = Field(ge=-1, le=1, description="Lowest cosine similarity of any text.")
    max_abs_diff: float = Field(ge=0, description="Largest difference of a component.")
    rank_correlation: float = Field(
        ge=-1,
        le=1,
        description="Spearman's rank correlation of the similarities of all pairs of texts; 1: the same order, so that "
        "a search finds the same.",
    )


class EmbeddingComparison(Model):
    """A program that embeds texts, against eager models."""

    quantized: EmbeddingAgreement = Field(description="Against the eager quantized model: is the export right?")
    original: EmbeddingAgreement = Field(description="Against the original model: is the quantization good?")


class GreedyAgreement(Model):
    """How far the program's answers at temperature 0 go together with the original model's."""

    prompts: int = Field(ge=1, description="Number of prompts.")
    equal: int = Field(ge=0, description="Number of answers that are equal to their last token.")
    tokens: int = Field(ge=0, description="Tokens of all answers, of each prompt's the longer one.")
    agreement: Fraction = Field(description="Share of these tokens that come before the first difference.")


class Perplexity(Model):
    """Perplexity per token of the original model's own answers, given their prompts; lower is better, 1 is certain."""

    original: float = Field(gt=0, description="Perplexity of the original model.")
    deployed: float = Field(gt=0, description="Perplexity of the deployed program.")
    ratio_interval: Interval | None = Field(
        default=None, description="Of the second over the first; of 95 %, from resampling the answers."
    )


class TextScore(Model):
    """A model on a text."""

    perplexity: float = Field(gt=0, description="Perplexity per token; lower is better.")
    ratio_interval: Interval | None = Field(
        default=None, description="Of it over the original model's; of 95 %, from resampling the windows."
    )
    kl: float = Field(description="Mean KL divergence from the original model, in nats per token; 0 is equal.")
    kl_interval: Interval | None = Field(default=None, description="Of 95 %, from resampling the windows.")
    top1: Fraction = Field(description="Share of tokens that it and the original find the most probable alike.")


class TextQuality(Model):
    """Perplexity on a text, read through overlapping windows, and agreement with the original model on it."""

    source: str = Field(
        description="builtin:<name>, hub:<data set>:<config>:<split>, or the last part of a file's or folder's path."
    )
    tokens: int = Field(ge=1, description="Tokens that were scored.")
    window: int = Field(ge=2, description="Most tokens that the model saw at once.")
    stride: int = Field(
        ge=1, description="Tokens between the starts of two windows. A token is scored in the first window that has it."
    )
    original: float = Field(gt=0, description="Perplexity of the original model per token.")
    quantized: TextScore = Field(description="The eager quantized model.")
    deployed: TextScore | None = Field(default=None, description="The program; null if it could not be executed.")


class TaskScore(Model):
    """Accuracy on held-out items of one task, in percent."""

    original: Percent = Field(description="Accuracy of the original model, in percent.")
    deployed: Percent = Field(description="Accuracy of the deployed program, in percent.")
    items: int = Field(ge=1, description="Number of items scored.")


class Check(Model):
    """One figure against its threshold."""

    name: str = Field(description="What is checked, such as 'top1 against original'.")
    value: float = Field(description="The figure that was measured.")
    threshold: float = Field(description="The recipe's threshold for it.")
    interval: Interval | None = Field(
        default=None, description="Of 95 %, where the figure is an estimate; its worse end counts."
    )
    passed: bool = Field(description="Whether the figure is on the good side of the threshold.")


class Gate(Model):
    """The rule that a bundle must pass before it is called good."""

    thresholds: dict[str, float] = Field(description="The recipe's thresholds, by their key in the settings.")
    checks: list[Check] = Field(description="Every figure that was compared with a threshold.")
    passed: bool = Field(description="The verdict: whether all checks passed.")

    @model_validator(mode="after")
    def _verdict_follows_checks(self) -> Self:
        if self.passed != all(check.passed for check in self.checks):
            raise ValueError("the verdict 'passed' contradicts the checks")
        return self


WitnessName = Literal["transformers", "sentence-transformers", "llama.cpp", "gguf", "et_pipeline"]


class Witness(Model):
    """Whose code said what the original model computes, which is what everything is compared with."""

    name: WitnessName = Field(
        description="'transformers' or 'sentence-transformers': its own loading of the source; 'llama.cpp': the same "
        "file in it; 'gguf': the gguf library's decoding of the file, in transformers' model; 'et_pipeline': our own "
        "reading, as nothing else could be had."
    )
    version: str = Field(description="Its version.")
    layers: list[int] | None = Field(
        default=None,
        description="The layers, from 0, in which our reading was compared with it, where the whole original does not "
        "fit into memory: 'original' in the other figures is then our own reading. Null: the whole model.",
    )
    agreement: Agreement | EmbeddingAgreement | None = Field(
        default=None, description="Of our own reading with it; null if the witness is our own reading."
    )
    note: str | None = Field(default=None, description="Why there is no better witness; null if there could be none.")


class Unadapted(Model):
    """How far the program of a model that was pruned or trained is from the model before that, on its own answers."""

    agreement: Agreement = Field(description="Of the program with that model.")
    perplexity: Perplexity | None = Field(default=None, description="Of both; null if there are no answers.")


class Quality(Model):
    """What deployment cost in quality, and the verdict."""

    agreement: Comparison | None = Field(
        default=None, description="Null if no program could be executed, and for an embedding."
    )
    embedding: EmbeddingComparison | None = Field(
        default=None, description="The same for an embedding; null if no program could be executed."
    )
    greedy: GreedyAgreement | None = Field(default=None, description="Null if no answers were compared.")
    tasks: dict[str, TaskScore] = Field(default={}, description="Accuracy by name of the task.")
    perplexity: Perplexity | None = Field(default=None, description="Null if it was not measured.")
    text: TextQuality | None = Field(default=None, description="Null if no text was given.")
    witness: Witness | None = Field(default=None, description="Null in a bundle of an older version.")
    unadapted: Unadapted | None = Field(
        default=None, description="Null unless the model was pruned or trained; 'original' is the result of that."
    )
    gate: Gate
