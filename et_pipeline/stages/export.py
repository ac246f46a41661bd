"""export: the quantized model in its form; write the program and `metadata.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from et_pipeline import forms
from et_pipeline.architecture import ENCODERS, FAMILIES
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.config import reason
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.forms.base import METADATA
from et_pipeline.quantization.torchao_config import load_quantized
from et_pipeline.settings import Backend, ExportForm, Quantization
from et_pipeline.stages import Exported
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
) -> Exported:
    """Trace the model with torch.export: quantized, or as it was if the backend quantizes the program."""
    if get_backend(backend.name).calibrated:
        model = load_model(inputs["checkpoint"])
    else:
        model = load_quantized(inputs["checkpoint"], inputs["quantize"], quantization)
    facts = Facts.read(inputs["acquire"])
    with _tried(facts.family):
        methods = forms.get(kind).export(model, facts, form, quantization, out)
    (out / METADATA).write_text(json.dumps(methods, indent=2, sort_keys=True), encoding="utf-8")
    return Exported(bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()))


@contextmanager
def _tried(family: str) -> Iterator[None]:
    """A family that nobody has tried may compute in a way that has no export form; in others it is our fault."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if family in (*FAMILIES, *ENCODERS):
            raise
        raise UserError(f"family {family} cannot be exported: {reason(error)}") from error
