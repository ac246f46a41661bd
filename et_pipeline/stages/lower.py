"""lower: hand the exported program to the backend; write `model.pte` and the delegation table.

Where two methods share their weights, also `twin.pte`, the same without sharing: the simulator takes no other.
"""

from __future__ import annotations

from pathlib import Path

from et_pipeline import forms
from et_pipeline.backends import get_backend
from et_pipeline.forms.base import read_methods
from et_pipeline.settings import Backend
from et_pipeline.stages import Lowered
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, kind: forms.Kind, backend: Backend) -> Lowered:
    """Lower the exported program to `model.pte`."""
    lowering = get_backend(backend.name, backend.soc)
    folder = inputs["quantize" if lowering.calibrated else "export"]
    delegation = forms.get(kind).lower(lowering, folder, read_methods(inputs["export"]), out, backend)
    # The program, and its weights where they have a file of their own.
    size = sum(file.stat().st_size for file in out.glob("model.*"))
    return Lowered(bytes=size, delegation=delegation)
