"""quantize: a checkpoint module by module, or an exported program by calibration; write the quantized weights."""

from __future__ import annotations

from pathlib import Path

from et_pipeline import forms
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.evaluation import calibration
from et_pipeline.quantization import sensitivity
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.torchao_config import quantize_checkpoint
from et_pipeline.settings import Backend, Quantization
from et_pipeline.stages import Quantized
from et_pipeline.worker import Tick


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    quantization: Quantization,
    backend: Backend | None = None,
    kind: forms.Kind | None = None,
) -> Quantized:
    """Quantize by the recipe: the checkpoint, unless `backend` quantizes what was exported.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or there is too little calibration text.
    """
    requantized = {}
    if backend is None and (quantization.calibrated or quantization.transform != "none"):
        read = _texts(inputs, quantization, calibration.LENGTH) if quantization.calibrated else []
        losses = None if quantization.mixed_bits is None else sensitivity.read(inputs["sensitivity"])
        requantized = quantize_calibrated(inputs["checkpoint"], quantization, read, out, tick, losses)
    elif backend is None or kind is None:
        requantized = quantize_checkpoint(inputs["checkpoint"], quantization, out, tick)
    else:
        _calibrate(inputs, out, tick, quantization, backend, kind)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Quantized(bytes=size, **requantized)


def _calibrate(
    inputs: dict[str, Path], out: Path, tick: Tick, q: Quantization, backend: Backend, kind: forms.Kind
) -> None:
    form = forms.get(kind)
    read = _texts(inputs, q, form.calibration_length(inputs["export"]))
    chosen = get_backend(backend.name, backend.soc)
    form.calibrate(chosen, inputs["export"], q, read, out, lambda done: tick(done, len(read)))


def _texts(inputs: dict[str, Path], q: Quantization, longest: int) -> list[list[int]]:
    if q.calibration is None:
        return []
    facts = Facts.read(inputs["acquire"])
    tokenizer = Folder(inputs["checkpoint"]).tokenizer
    return calibration.sequences(q.calibration, inputs.get("calibration"), facts, tokenizer, longest)
