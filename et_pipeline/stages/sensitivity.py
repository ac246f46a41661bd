"""sensitivity: what rounding each linear costs, by which mixed recipes give bits; measured once for all of them."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.quantization import sensitivity
from et_pipeline.settings import Quantization
from et_pipeline.stages import Measured
from et_pipeline.stages.quantize import texts
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization) -> Measured:
    """Measure on the calibration text, and keep it beside.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or there is too little calibration text.
    """
    found = sensitivity.measure(inputs["checkpoint"], quantization, texts(inputs, quantization), out, tick)
    sensitivity.write(found, out)
    return Measured(linears=len(found))
