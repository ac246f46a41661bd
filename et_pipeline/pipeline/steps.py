"""What a run does with one stage: its key, its process, its result, and how that is shown."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from et_pipeline import cache, forms, plugins
from et_pipeline.errors import StageError
from et_pipeline.pipeline.memory import claimed
from et_pipeline.pipeline.order import Stage
from et_pipeline.pipeline.search import Trial
from et_pipeline.settings import Settings
from et_pipeline.worker import StageKilled, Tick, run_stage


class Face(Protocol):
    """What a run shows while it works; see `report.progress`."""

    def start(self, stage: str) -> Tick:
        """A stage begins; returns the function that takes its progress."""

    def wait(self, stage: str) -> None:
        """Another run is building this stage's result; ours waits for it."""

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        """A stage's result is there."""


@dataclass
class Made:
    """One program of a bundle.

    Attributes:
        kind: the program's form.
        entries: finished stages in order.
        reused: names of those that were in the cache already.
        trials: what `recipe=auto` tried, in the order of what it prefers.
    """

    settings: Settings
    kind: forms.Kind
    entries: dict[str, cache.Entry] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


class Named:
    """A face that says which program a stage belongs to."""

    def __init__(self, face: Face, name: str) -> None:
        self.face, self.name = face, name

    def start(self, stage: str) -> Tick:
        """See `Face`."""
        return self.face.start(f"{self.name}: {stage}")

    def wait(self, stage: str) -> None:
        """See `Face`."""
        self.face.wait(f"{self.name}: {stage}")

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        """See `Face`."""
        self.face.finish(f"{self.name}: {stage}", cost, reused)


def _plugins(config: Mapping[str, Any], family: str) -> dict[str, str]:
    """Versions of other packages that a stage's result depends on: of the backend's, the form's and the family's."""
    used: list[tuple[plugins.Group, str]] = [("families", family)]
    if "backend" in config:
        used.append(("backends", config["backend"].name))
    if "kind" in config:
        used.append(("forms", config["kind"].name))
    return plugins.versions(used)


def finish(made: Made, stage: str, entry: cache.Entry, reused: bool, face: Face) -> None:
    """Note a result."""
    made.entries[stage] = entry
    if reused:
        made.reused.append(stage)
    face.finish(stage, entry.cost, reused)


def heavy(
    stage: Stage, made: Made, extra: Mapping[str, tuple[Path, str]], family: str, root: Path, face: Face, logs: Path
) -> tuple[cache.Entry, bool]:
    """Do a stage in a process of its own, unless its result is there.

    Args:
        stage: what to do.
        made: the program, with the results that the stage reads.
        extra: the checkpoint and other files, each with the hash of its content.
        family: the model's.
        root: the cache.
        face: shows progress.
        logs: folder for what the process prints.

    Returns:
        The result, and whether it was there.
    """
    settings = made.settings
    given = {name: extra[name] for name in ("checkpoint", *stage.texts) if name in extra}
    inputs = {name: path for name, (path, _) in given.items()}
    inputs |= {name: made.entries[name].folder for name in stage.needs}
    key = {
        "code": cache.code_version(stage.module),
        "config": {name: value.model_dump(mode="json") for name, value in stage.config.items()},
        "inputs": {name: content for name, (_, content) in given.items()}
        | {name: made.entries[name].content for name in stage.needs},
        "libraries": cache.library_versions(stage.libraries) | _plugins(stage.config, family),
        "seed": settings.seed,
    }
    if stage.host:
        key["host"] = [platform.node(), platform.machine(), platform.processor()]
    folder = root / stage.name / cache.digest(key)
    work = folder.with_name(f"{folder.name}.work")
    if stage.resumes:
        inputs["work"] = work
    tick = face.start(stage.name)

    def make(out: Path) -> tuple[dict[str, Any], dict[str, float]]:
        if stage.resumes:
            work.mkdir(exist_ok=True)
        try:
            with claimed(root, stage, settings, extra["checkpoint"][0]):
                log_file = logs / f"{stage.name}.log"
                return run_stage(stage.module, inputs, out, stage.config, settings.seed, log_file, tick)
        except StageKilled as error:
            if stage.name == "export" or settings.backend.name != "qnn":
                raise
            raise StageError(
                f"stage {stage.name}: Qualcomm's libraries took their process down (it {error.ending}, as it is when "
                f"memory runs out); {logs / stage.name}.log has what they said"
            ) from error

    built = cache.build(folder, make, key, lambda: face.wait(stage.name))
    shutil.rmtree(work, ignore_errors=True)
    return built
