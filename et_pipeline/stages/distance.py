"""distance: how far the .pte of an adapted model is from the model before that; write no file, only figures."""

from __future__ import annotations

from pathlib import Path

from et_pipeline import forms
from et_pipeline.adaptation.divergence import Divergence, distance
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.subject import Subject
from et_pipeline.settings import Backend, ExportForm, Quantization
from et_pipeline.worker import Tick


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    kind: forms.Kind,
    quantization: Quantization,
    form: ExportForm,
    backend: Backend,
) -> Divergence:
    """Feed the program the unadapted model's own answers, which `verify` does with the adapted one's."""
    subject = Subject(
        checkpoint=inputs["checkpoint"],
        gguf=None,
        quantized=inputs["quantize"],
        lowered=inputs["lower"],
        facts=Facts.read(inputs["acquire"]),
        form=form,
        quantization=quantization,
        backend=backend,
        made_as=forms.get(kind),
    )
    return distance(inputs["unadapted"], subject, own_text.read(inputs["unadapted_answers"]), tick)
