"""What jobs came to is brought back from the process or the host that they ran in.

Hydra drops what the jobs of a sweep return, so each leaves it in a file of the sweep's folder, where it is found also
when the launcher fails.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from et_pipeline.report.jobs import Outcome

_FOLDER = ".jobs"

_single: list[Outcome] = []
_sweep: Path | None = None


class Outcomes(Callback):
    """Hydra tells it where a sweep begins."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Remember the folder, and clear it of what a killed sweep left."""
        global _sweep
        _sweep = Path(config.hydra.sweep.dir).absolute() / _FOLDER
        shutil.rmtree(_sweep, ignore_errors=True)


def sweeps() -> bool:
    """Whether this job is one of several."""
    return HydraConfig.get().mode is RunMode.MULTIRUN


def keep(outcome: Outcome) -> None:
    """Called where the job ran."""
    if not sweeps():
        _single.append(outcome)
        return
    folder = Path(HydraConfig.get().sweep.dir) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{outcome.number}.tmp"
    temporary.write_bytes(pickle.dumps(outcome))
    temporary.replace(folder / f"{outcome.number}.pickle")


def collected() -> list[Outcome]:
    """Called where the command was given; what was collected is forgotten."""
    global _sweep
    found = [*_single]
    _single.clear()
    if _sweep is not None:
        found += [pickle.loads(path.read_bytes()) for path in _sweep.glob("*.pickle")]
        shutil.rmtree(_sweep, ignore_errors=True)
        _sweep = None
    return sorted(found, key=lambda each: each.number)
