"""measure: load time and speed of the .pte on this host, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from et_pipeline import forms
from et_pipeline.forms.base import PTE
from et_pipeline.runtime.embedding import measure_embedding
from et_pipeline.runtime.speed import measure_speed
from et_pipeline.settings import Measure
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, kind: forms.Kind, measure: Measure) -> dict[str, Any]:
    """Time the program: with ExecuTorch's own LLM runner, or the call that embeds a text."""
    program = inputs["lower"] / PTE
    if forms.get(kind).embeds:
        text = measure_embedding(program, measure.prompt_tokens, measure.rounds, measure.threads)
        return text.model_dump(mode="json")
    speed = measure_speed(
        program,
        inputs["acquire"] / "tokenizer.json",
        measure.prompt_tokens,
        measure.decode_tokens,
        measure.rounds,
        measure.threads,
    )
    return speed.model_dump(mode="json")
