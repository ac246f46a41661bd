"""The model that is deployed: a checkpoint, and what is made of it before anything is quantized."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from et_pipeline import cache, forms
from et_pipeline.checkpoints import adapter
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.source import gguf_file
from et_pipeline.pipeline.order import Stage
from et_pipeline.pipeline.steps import Face, Made, finish, heavy
from et_pipeline.settings import Checkpoint, Settings

log = logging.getLogger(__name__)

_MERGE = Stage("merge_lora", (), {}, ("torch", "transformers", "peft"), texts=("adapter",))


class Original(NamedTuple):
    """What all programs of a run are made from.

    Attributes:
        checkpoint: the source, and the adapter that was merged into it.
        folder: the checkpoint, in Hugging Face layout.
        files: SHA-256 of the files of the source, by name.
        inputs: what stages read besides each other's results, with hashes of the contents: `checkpoint`, and `gguf` if
            that was made from such a file.
        entries: results of what has changed it.
        reused: those among them that were in the cache.
    """

    checkpoint: Checkpoint
    folder: Path
    files: dict[str, str]
    inputs: Mapping[str, tuple[Path, str]]
    entries: dict[str, cache.Entry]
    reused: list[str]


def original(settings: Settings, root: Path, face: Face, logs: Path) -> Original:
    """Get the checkpoint, and adapt it as the settings say.

    Raises:
        UserError: it is not to be had, or what is to be done with it does not fit.
    """
    place = Place(root, logs, face.start("acquire"), lambda: face.wait("acquire"))
    found = adapter.prepare(settings.model.checkpoint, settings.seed, place)
    inputs = {"checkpoint": (found.folder, cache.digest(found.files))}
    if found.adapter is None:
        gguf = gguf_file(settings.model.source)
        if gguf is not None:
            inputs["gguf"] = (gguf, inputs["checkpoint"][1])
        return Original(found.checkpoint, found.folder, found.files, inputs, {}, [])
    base = found.adapter.base
    if base is not None and Path(base).name != Path(found.checkpoint.source).name:
        log.warning("%s was trained on %s, as it says, and is merged into %s", found.adapter.path, base, found.folder)
    inputs["adapter"] = (found.adapter.path, cache.digest(found.adapter.hashes()))
    made = Made(settings, forms.choose(settings.model.task, settings.backend))
    entry, reused = heavy(_MERGE, made, inputs, "", root, face, logs)
    finish(made, _MERGE.name, entry, reused, face)
    inputs = {"checkpoint": (entry.folder, entry.content)}
    return Original(found.checkpoint, entry.folder, found.files, inputs, made.entries, made.reused)
