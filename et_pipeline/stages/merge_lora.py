"""merge_lora: the checkpoint that a model is with its adapter."""

from __future__ import annotations

import tempfile
from pathlib import Path

from et_pipeline.adaptation.merging import merge
from et_pipeline.checkpoints.adapter import Adapter
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.stages import Merged
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick) -> Merged:
    """Merge the adapter into the checkpoint.

    Raises:
        UserError: they do not fit each other.
    """
    with tempfile.TemporaryDirectory() as scratch:
        adapter = Adapter(inputs["adapter"]).in_folder(Folder(inputs["checkpoint"]), Path(scratch))
        return Merged(**merge(inputs["checkpoint"], adapter, out, tick))
