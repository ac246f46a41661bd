"""What a run does first with a checkpoint: read and check all of it but the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from et_pipeline import cache, plugins
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.pipeline.checks import check_family, check_task, check_texts
from et_pipeline.pipeline.steps import Face, Made, finish
from et_pipeline.stages import Acquired
from et_pipeline.stages import acquire as stage
from et_pipeline.worker import run_stage

log = logging.getLogger(__name__)


def acquire(made: Made, extra: Mapping[str, tuple[Path, str]], root: Path, face: Face, logs: Path) -> Facts:
    """Read and check a checkpoint, whose files are not kept in memory while the heavy stages run.

    Raises:
        UserError: it is broken, or does not fit the settings.
    """
    settings, checkpoint = made.settings, Folder(extra["checkpoint"][0])
    form = settings.model.form
    key = {
        "code": cache.code_version(stage.__name__),
        "checkpoint": extra["checkpoint"][1],
        "form": form.model_dump(),
        "libraries": cache.library_versions(("transformers", "tokenizers", "pytorch-tokenizers"))
        | plugins.versions(("families", name) for name in plugins.names("families")),
    }

    def check(out: Path) -> tuple[dict[str, Any], dict[str, float]]:
        stage.glance(checkpoint, form)
        given, log_file = {"checkpoint": checkpoint.path}, logs / "acquire.log"
        return run_stage(stage.__name__, given, out, {"form": form}, settings.seed, log_file, lambda *_: None)

    entry, reused = cache.build(root / "acquire" / cache.digest(key), check, key, lambda: face.wait("acquire"))
    finish(made, "acquire", entry, reused, face)
    for warning in Acquired.model_validate(entry.figures).warnings:
        log.warning(warning)
    facts = Facts.read(entry.folder)
    check_task(settings, facts)
    check_family(settings, facts, checkpoint)
    check_texts(settings, facts, checkpoint, {name: path for name, (path, _) in extra.items()})
    return facts
