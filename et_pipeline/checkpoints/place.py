"""Where a checkpoint that does not exist yet is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from et_pipeline.worker import Tick


@dataclass(frozen=True)
class Place:
    """Where a checkpoint that does not exist yet is made, and how that is shown.

    Attributes:
        root: the stage cache.
        logs: folder for what the converting process prints.
        tick: takes progress.
        wait: called once if another run makes the same checkpoint.
    """

    root: Path
    logs: Path
    tick: Tick = lambda done, total: None
    wait: Callable[[], None] = lambda: None
