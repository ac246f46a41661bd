"""measure: load time and speed of the .pte on this host, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from et_pipeline.checkpoints.facts import Facts
from et_pipeline.runtime.embedding import measure_embedding
from et_pipeline.runtime.speed import measure_speed
from et_pipeline.settings import Measure
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, measure: Measure) -> dict[str, Any]:
    """Time the program: with ExecuTorch's own LLM runner, or the call that embeds a text."""
    if Facts.read(inputs["acquire"]).pooling is not None:
        text = measure_embedding(inputs["lower"] / "model.pte", measure.prompt_tokens, measure.rounds, measure.threads)
        return text.model_dump(mode="json")
    speed = measure_speed(
        inputs["lower"] / "model.pte",
        inputs["acquire"] / "tokenizer.json",
        measure.prompt_tokens,
        measure.decode_tokens,
        measure.rounds,
        measure.threads,
    )
    return speed.model_dump(mode="json")
