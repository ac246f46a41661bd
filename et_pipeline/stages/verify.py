"""verify: the .pte in the real runtime against the quantized eager model and the original; write no file, only figures.

evidence → reference → program → compare: what each of these is for the kind of program, its form says.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from et_pipeline import forms
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.evaluation import answers, embedding
from et_pipeline.evaluation.gate import judge, undecided
from et_pipeline.evaluation.subject import Subject
from et_pipeline.evaluation.verified import Verified, VerifiedEmbedding
from et_pipeline.settings import Backend, Evidence, ExportForm, Gate, Quantization, Task
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
    gate: Gate,
) -> Verified | VerifiedEmbedding:
    """Compare what the three compute on the same evidence.

    Where this host cannot execute the program, the quantized eager model is all that is compared with the original.
    While the gate's verdict is open, more evidence is taken, as long as there is some and `verify.seconds` of that.
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
    done, steps = 0, STEPS[subject.made_as.compared]

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tick(done, max(done, total))

    total = verify.sequences
    evidence = steps.gather(subject, verify, task, inputs, advance)
    total = evidence.steps
    found = _compared(steps, subject, evidence, task, advance)
    began = time.monotonic()
    while evidence.rest and undecided(judge(found, gate)) and time.monotonic() - began < verify.seconds:
        evidence = evidence.more()
        found = found.joined(_compared(steps, subject, evidence, task, advance))
    return found


def _compared(steps: Any, subject: Subject, evidence: Any, task: Task, advance: Any) -> Any:
    """What the three compute of the evidence, held against each other."""
    original = steps.original(subject, evidence, advance)
    quantized = steps.quantized(subject, evidence, advance)
    program = steps.program(subject, evidence, advance) if subject.executable else None
    return steps.compare(subject, evidence, original, quantized, program, task, advance)
