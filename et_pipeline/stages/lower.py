"""lower: hand the exported program to the backend; write `model.pte` and the delegation table.

Where two methods share their weights, also `twin.pte`, the same without sharing: the simulator takes no other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from et_pipeline.backends import get_backend
from et_pipeline.models.decoder import load_program
from et_pipeline.models.external_cache import load_programs
from et_pipeline.settings import Backend
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, backend: Backend) -> dict[str, Any]:
    """Lower the exported program to `model.pte`."""
    lowering: Any = get_backend(backend.name, backend.soc)
    folder = inputs["quantize" if lowering.calibrated else "export"]
    methods = json.loads((inputs["export"] / "metadata.json").read_text())
    if backend.prefill:
        lowering.lower_together(load_programs(folder), methods, out / "twin.pte", shared=False)
        delegation = lowering.lower_together(load_programs(folder), methods, out / "model.pte", shared=True)
    else:
        program = load_program(folder)
        delegation = lowering.lower(program, methods, out / "model.pte", external_weights=backend.external_weights)
    # The program, and its weights where they have a file of their own.
    size = sum(file.stat().st_size for file in out.glob("model.*"))
    return {"bytes": size, "delegation": delegation.model_dump(mode="json")}
