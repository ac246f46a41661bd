"""lower: hand the exported program to the backend; write `model.pte` and the delegation table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from et_pipeline.backends import get_backend
from et_pipeline.models.decoder import load_program
from et_pipeline.settings import Backend
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, backend: Backend) -> dict[str, Any]:
    """Lower the exported program to `model.pte`."""
    program = load_program(inputs["export"])
    methods = json.loads((inputs["export"] / "metadata.json").read_text())
    delegation = get_backend(backend.name).lower(program, methods, out / "model.pte")
    return {"bytes": (out / "model.pte").stat().st_size, "delegation": delegation.model_dump(mode="json")}
