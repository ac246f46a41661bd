"""quantize: read the checkpoint module by module and quantize each at once; write `quantized-*.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from et_pipeline.quantization.torchao_config import quantize_checkpoint
from et_pipeline.settings import Quantization
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization) -> dict[str, Any]:
    """Quantize the checkpoint by the recipe.

    Raises:
        UserError: the weights do not fit config.json or the recipe.
    """
    quantize_checkpoint(inputs["checkpoint"], quantization, out, tick)
    return {"bytes": sum(file.stat().st_size for file in out.iterdir())}
