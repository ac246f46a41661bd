"""sensitivity: what rounding each linear costs, by which mixed recipes give bits; measured once for all of them."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.evaluation import calibration
from et_pipeline.quantization import sensitivity
from et_pipeline.settings import Quantization
from et_pipeline.stages import Measured
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization) -> Measured:
    """Measure on the calibration text, and keep it beside.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or there is too little calibration text.
    """
    folder, facts, read = Folder(inputs["checkpoint"]), Facts.read(inputs["acquire"]), quantization.calibration
    assert read is not None
    texts = calibration.sequences(read, inputs.get("calibration"), facts, folder.tokenizer, calibration.LENGTH)
    found = sensitivity.measure(folder.path, quantization, texts, out, tick)
    sensitivity.write(found, out)
    return Measured(linears=len(found))
