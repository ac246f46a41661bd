"""How much memory the stages that run at once on one machine may take: `sweep.memory_gb`.

The cache has a ledger per machine: a file per claim, which the run that made it holds locked as long as its stage runs.
The kernel drops the lock of a run that dies, so a killed one claims nothing.
"""

from __future__ import annotations

import logging
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.forecast import architecture_of, peak_bytes
from et_pipeline.pipeline.order import TRAINING_LIBRARIES, Stage
from et_pipeline.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 0.2


@contextmanager
def claimed(root: Path, stage: Stage, settings: Settings, checkpoint: Path) -> Iterator[None]:
    """Hold what a stage is forecast to take of the budget, as soon as there is so much of it.

    Args:
        root: the cache.
        stage: about to run.
        settings: of the run.
        checkpoint: whose shapes the forecast is made of.
    """
    if settings.sweep.memory_gb is None:
        yield
        return
    budget = int(settings.sweep.memory_gb * 1e9)
    if stage.libraries == TRAINING_LIBRARIES:  # which no forecast knows
        wanted = budget
    else:
        wanted = peak_bytes(stage.name, architecture_of(Folder(checkpoint)), settings)
    if wanted > budget:
        log.warning(
            "stage %s is forecast to take %.1f GB, more than sweep.memory_gb=%s, and runs when no other does",
            stage.name,
            wanted / 1e9,
            settings.sweep.memory_gb,
        )
    with held(root / "memory" / platform.node(), wanted, budget):
        yield


@contextmanager
def held(ledger: Path, wanted: int, budget: int) -> Iterator[None]:
    """Wait for bytes of a budget that processes share, and hold them; what exceeds it waits to be the only one."""
    ledger.mkdir(parents=True, exist_ok=True)
    while (claim := _claim(ledger, wanted, budget)) is None:
        time.sleep(POLL_S)
    try:
        yield
    finally:
        claim.release()
        Path(claim.lock_file).unlink(missing_ok=True)


def _claim(ledger: Path, wanted: int, budget: int) -> FileLock | None:
    with FileLock(ledger / "lock"):
        taken = sum(_alive(path) for path in ledger.glob("*.claim"))
        if taken and taken + wanted > budget:
            return None
        claim = FileLock(ledger / f"{wanted}-{uuid.uuid4().hex}.claim")
        claim.acquire()
        return claim


def _alive(path: Path) -> int:
    """The bytes of a claim; 0 if who made it is gone."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return int(path.name.partition("-")[0])
    lock.release()
    path.unlink(missing_ok=True)
    return 0
