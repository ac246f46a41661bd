"""distill: the checkpoint learns what its teacher expects after each token of a text."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.adaptation.distillation import distill
from et_pipeline.adaptation.divergence import divergence
from et_pipeline.adaptation.training import Schedule
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.calibration import learned
from et_pipeline.settings import Distillation, LearnedText
from et_pipeline.stages import Distilled
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, training: Distillation, text: LearnedText) -> Distilled:
    """Train the checkpoint, and compare it with the original.

    Raises:
        UserError: the teacher has other tokens, or the loss is no longer a number.
    """
    student, teacher = inputs["checkpoint"], inputs["teacher"]
    schedule, texts = Schedule(**training.model_dump(exclude={"temperature"})), learned(text, inputs)
    found = distill(student, teacher, texts, out, inputs["work"], schedule, tick, training.temperature)
    moved = divergence(inputs["original"], out, own_text.read(inputs["evidence"]), lambda *_: None)
    return Distilled(**found._asdict(), **moved.figures())
