"""An encoder for delegates that take any number of tokens: a text comes alone and is embedded in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import manifest
from et_pipeline.errors import UserError
from et_pipeline.evaluation.gate import judge_embeddings
from et_pipeline.evaluation.verified import VerifiedEmbedding
from et_pipeline.forms.base import Form
from et_pipeline.models.pooling import Pooling
from et_pipeline.runtime.embedding import EmbeddingSpeed, measure_embedding

if TYPE_CHECKING:
    from pydantic import BaseModel

    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Measure, Quantization, Settings


class EncoderForm(Form):
    """See `models.encoder`."""

    embeds = True
    compared = "embedding"
    verified = VerifiedEmbedding
    measured = EmbeddingSpeed

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace with a dynamic number of tokens."""
        from et_pipeline.models.decoder import save_program
        from et_pipeline.models.encoder import Encoder, export_encoder, metadata

        encoder = Encoder(model, facts.pooling or Pooling(), form.max_context)
        save_program(export_encoder(encoder), out)
        return metadata(encoder)

    def state_bytes(self, facts: Facts, form: ExportForm, backend: str) -> dict[str, int]:
        """It remembers nothing."""
        return {}

    def measure(self, pte: Path, tokenizer: Path, asked: Measure) -> BaseModel:
        """Time the call that embeds a text."""
        return measure_embedding(pte, asked.prompt_tokens, asked.rounds, asked.threads)

    def quality(self, found: Any, settings: Settings) -> manifest.Quality:
        """The manifest's part on what `verify` found out."""
        gate = judge_embeddings(found, settings.recipe.gate)
        return manifest.Quality(embedding=found.agreement, witness=found.witness.for_manifest(), gate=gate)

    def description(
        self, settings: Settings, facts: Facts, found: Any, speed: Any | None, where: str
    ) -> dict[str, Any]:
        """Its vectors, and how fast they come."""
        pooling, threads = facts.pooling or Pooling(), settings.measure.threads
        dimension = pooling.dimension(facts.hidden_size)
        embedding = manifest.Embedding(
            dimension=dimension,
            dimensions=_shorter(settings.model.dimensions or facts.dimensions, dimension),
            prompts=facts.prompts | (settings.model.prompts or {}),
            default_prompt=facts.default_prompt,
            pooling=pooling.mode,
            normalised=pooling.normalised,
            max_tokens=settings.model.max_context,
            speed=[] if speed is None else [manifest.EmbeddingSpeed(where=where, threads=threads, **dict(speed))],
            samples=found.samples,
        )
        return {"chat": None, "embedding": embedding}


def _shorter(dimensions: Sequence[int], whole: int) -> list[int]:
    """The longest first, without the whole length, which needs no cutting."""
    wrong = [each for each in dimensions if each > whole]
    if wrong:
        raise UserError(f"model.dimensions has {wrong[0]}, and the model gives {whole} numbers; choose smaller ones")
    return sorted({*dimensions} - {whole}, reverse=True)


FORM = EncoderForm()
