"""verify: the .pte in the real runtime against the quantized eager model and the original; write no file, only figures.

evidence → reference → program → compare: what each of these is for the kind of program, its form says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from et_pipeline import forms
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.evaluation import answers, embedding
from et_pipeline.evaluation.subject import Subject
from et_pipeline.evaluation.verified import Verified, VerifiedEmbedding
from et_pipeline.settings import Backend, Evidence, ExportForm, Quantization, Task
from et_pipeline.worker import Tick

STEPS: dict[str, Any] = {"answers": answers, "embedding": embedding}


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    kind: forms.Kind,
    quantization: Quantization,
    form: ExportForm,
    task: Task,
    verify: Evidence,
    backend: Backend,
) -> Verified | VerifiedEmbedding:
    """Compare what the three compute on the same evidence.

    Where this host cannot execute the program, the quantized eager model is all that is compared with the original.
    """
    subject = Subject(
        checkpoint=inputs["checkpoint"],
        gguf=inputs.get("gguf"),
        quantized=inputs["quantize"],
        lowered=inputs["lower"],
        facts=Facts.read(inputs["acquire"]),
        form=form,
        quantization=quantization,
        backend=backend,
        made_as=forms.get(kind),
    )
    steps = STEPS[subject.made_as.compared]
    evidence = steps.gather(subject, verify, task, inputs.get("evaluation"), inputs.get("text"))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tick(done, evidence.steps)

    original = steps.original(subject, evidence, advance)
    quantized = steps.quantized(subject, evidence, advance)
    program = steps.program(subject, evidence, advance) if subject.executable else None
    found: Verified | VerifiedEmbedding = steps.compare(subject, evidence, original, quantized, program, task, advance)
    return found
