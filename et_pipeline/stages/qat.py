"""qat: the integers that a recipe has chosen learn the original's answers."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.adaptation.qat import train
from et_pipeline.adaptation.training import Schedule
from et_pipeline.evaluation.calibration import learned
from et_pipeline.settings import LearnedText, Quantization, Training
from et_pipeline.stages import Qat, Quantized
from et_pipeline.worker import Tick


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    quantization: Quantization,
    training: Training,
    text: LearnedText,
) -> Quantized:
    """Train quantized weights, which keep their form.

    Raises:
        UserError: there are no weights of 4 bits, or too few texts.
    """
    schedule = Schedule(**training.model_dump())
    checkpoint, rounded, work = inputs["checkpoint"], inputs["round"], inputs["work"]
    texts = learned(text, inputs)
    found = train(checkpoint, rounded, quantization, checkpoint, texts, out, work, schedule, tick)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    figures = found._asdict()
    return Quantized(bytes=size, qat=Qat(**figures.pop("trained")._asdict(), **figures))
