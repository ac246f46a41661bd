"""What `verify` finds out: the figures that the gate judges and the manifest tells."""

from __future__ import annotations

from pydantic import Field

from et_pipeline import manifest
from et_pipeline.manifest.fields import Model


class Witnessed(manifest.Witness):
    """A comparison of our reading of the original with the witness's; see `evaluation.reading`.

    Attributes:
        difference: the largest of a figure, as a share of the largest figure; None where the witness is our reading.
        allowed: how large it may be.
    """

    difference: float | None = None
    allowed: float | None = None

    def for_manifest(self) -> manifest.Witness:
        """Without the figures that its gate holds."""
        return manifest.Witness(**{name: getattr(self, name) for name in manifest.Witness.model_fields})


class OnText(Model):
    """Perplexity of each model on a text, and agreement of two of them with the original."""

    tokens: int
    original: float
    quantized: manifest.TextScore
    deployed: manifest.TextScore | None


class Verified(Model):
    """Figures of a model that answers.

    Attributes:
        witness: whose the original is, and how far our reading is from it.
        eager: the quantized eager model with the original.
        quantized: the program with the quantized eager model, per way of feeding; None if this host cannot execute it.
        original: the program with the original, likewise.
        rounding: the quantized eager model with itself, the inputs of its linears changed in the last bit; None where
            activations are not quantized.
        long: the program with the quantized eager model at the end of a text that takes several calls and fills each
            sliding window; None where one call takes the whole context.
        perplexity: of the answers; None where it was not measured.
        text: on a text; None where none was given.
        greedy: the answers to held-out items with the original's.
        tasks: accuracy of them, in points.
    """

    witness: Witnessed
    eager: manifest.Agreement
    quantized: manifest.WaysOfFeeding | None = None
    original: manifest.WaysOfFeeding | None = None
    rounding: manifest.Agreement | None = None
    long: manifest.Agreement | None = None
    perplexity: manifest.Perplexity | None = None
    text: OnText | None = None
    greedy: manifest.GreedyAgreement | None = None
    tasks: dict[str, manifest.TaskScore] = Field(default={})
    samples: list[manifest.Sample] = Field(default=[])

    @property
    def executed(self) -> bool:
        """Whether the program ran on this host."""
        return self.quantized is not None

    @property
    def agreement(self) -> manifest.Comparison | None:
        """The program against eager models."""
        if self.quantized is None or self.original is None:
            return None
        return manifest.Comparison(quantized=self.quantized, original=self.original)


class VerifiedEmbedding(Model):
    """Figures of a model that embeds texts.

    Attributes:
        witness: whose the original is, and how far our reading is from it.
        eager: the quantized eager model with the original.
        agreement: of the program with either; None if this host cannot execute it.
    """

    witness: Witnessed
    eager: manifest.EmbeddingAgreement
    agreement: manifest.EmbeddingComparison | None = None
    samples: list[manifest.Similarity] = Field(default=[])

    @property
    def executed(self) -> bool:
        """Whether the program ran on this host."""
        return self.agreement is not None
