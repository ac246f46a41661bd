"""quantize: read the checkpoint module by module and quantize each at once; write `quantized.pt`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from et_pipeline.models.checkpoint import load_model
from et_pipeline.quantization.torchao_config import quantize_module, save_quantized
from et_pipeline.settings import Quantization
from et_pipeline.worker import Tick

FILE = "quantized.pt"


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization) -> dict[str, Any]:
    """Quantize the checkpoint by the recipe.

    Raises:
        UserError: the weights do not fit config.json or the recipe.
    """
    model = load_model(inputs["checkpoint"], partial(quantize_module, q=quantization), tick)
    save_quantized(model, out / FILE)
    return {"bytes": (out / FILE).stat().st_size}
