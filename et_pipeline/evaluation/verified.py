"""What `verify` finds out: the figures that the gate judges and the manifest tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from et_pipeline import manifest
from et_pipeline.evaluation.agreement import interval, over_sequences
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


class Losses(Model):
    """How unlikely an answer is to two models: negative log likelihood in nats, summed over its tokens."""

    tokens: int
    original: float
    deployed: float


Ways = dict[str, list[manifest.Agreement]]
"""Of each sequence, by way of feeding."""


class Verified(Model):
    """Figures of a model that answers, of each sequence by itself where they are estimates.

    Attributes:
        witness: whose the original is, and how far our reading is from it.
        eager: the quantized eager model with the original.
        quantized: the program with the quantized eager model; None if this host cannot execute it.
        original: the program with the original, likewise.
        rounding: the quantized eager model with itself, the inputs of its linears changed in the last bit; None where
            activations are not quantized.
        long: the program with the quantized eager model at the end of a text that takes several calls and fills each
            sliding window; None where one call takes the whole context.
        losses: of the original's answers.
        text: on a text; None where none was given.
        greedy: the answers to held-out items with the original's.
        tasks: accuracy of them, in points.
    """

    witness: Witnessed
    eager: list[manifest.Agreement]
    quantized: Ways | None = None
    original: Ways | None = None
    rounding: manifest.Agreement | None = None
    long: manifest.Agreement | None = None
    losses: list[Losses] = Field(default=[])
    text: OnText | None = None
    greedy: manifest.GreedyAgreement | None = None
    tasks: dict[str, manifest.TaskScore] = Field(default={})
    samples: list[manifest.Sample] = Field(default=[])

    def joined(self, more: Verified) -> Verified:
        """With the figures of more sequences."""

        def both(ours: Ways | None, theirs: Ways | None) -> Ways | None:
            return ours and theirs and {way: [*parts, *theirs.get(way, [])] for way, parts in ours.items()}

        return self.model_copy(
            update={
                "eager": [*self.eager, *more.eager],
                "quantized": both(self.quantized, more.quantized),
                "original": both(self.original, more.original),
                "losses": [*self.losses, *more.losses],
            }
        )

    @property
    def executed(self) -> bool:
        """Whether the program ran on this host."""
        return self.quantized is not None

    @property
    def agreement(self) -> manifest.Comparison | None:
        """The program against eager models."""
        if self.quantized is None or self.original is None:
            return None
        return manifest.Comparison(quantized=_over_ways(self.quantized), original=_over_ways(self.original))

    @property
    def perplexity(self) -> manifest.Perplexity | None:
        """Of the answers; None where none was drawn."""
        return perplexity(self.losses)


def perplexity(losses: Sequence[Losses]) -> manifest.Perplexity | None:
    """Of answers; None where there is none."""
    tokens = sum(each.tokens for each in losses)
    if not tokens:
        return None
    ends = interval([(each.deployed - each.original, float(each.tokens)) for each in losses])
    return manifest.Perplexity(
        original=math.exp(sum(each.original for each in losses) / tokens),
        deployed=math.exp(sum(each.deployed for each in losses) / tokens),
        ratio_interval=None if ends is None else [math.exp(end) for end in ends],
    )


def _over_ways(ways: Ways) -> manifest.WaysOfFeeding:
    return manifest.WaysOfFeeding(**{way: over_sequences(parts) for way, parts in ways.items()})


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
