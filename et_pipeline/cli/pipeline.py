"""`et-pipeline`: Hydra composes, `job` does, `report` shows.

Exit codes: 0 a bundle that passed its gate (or the stage asked for), 1 a fault of ours, 2 a mistake in the input,
3 a bundle that failed its gate.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from et_pipeline import CONF
from et_pipeline.backends import get_backend
from et_pipeline.errors import EXIT_GATE, EXIT_USER, StageError, UserError
from et_pipeline.evaluation.gate import too_far
from et_pipeline.job import do, forget, outcomes
from et_pipeline.job.mistakes import check_arguments, guarded, told
from et_pipeline.report import tables
from et_pipeline.report.jobs import Outcome

if TYPE_CHECKING:
    from et_pipeline.pipeline import Made, Result
    from et_pipeline.survey import Survey

log = logging.getLogger("et_pipeline")


def main() -> None:
    """Console entry of `et-pipeline`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, and we decide what each is worth
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # or it logs to standard output, where results go
    try:
        code = guarded(_run)
    finally:  # a launcher that fails does not hide what was done
        worst = _tell(outcomes.collected())
    sys.exit(code or worst)


def _run() -> None:
    check_arguments(sys.argv[1:])
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()


def job(composed: DictConfig) -> Outcome:
    """One job, here or wherever a launcher of Hydra runs it: nothing but a fault of ours, and that alone, is raised."""
    began, ran = time.monotonic(), HydraConfig.get()
    outputs, overrides = Path(ran.runtime.output_dir), list(ran.overrides.task)
    found: tuple[Result | Survey, ...] = ()
    mistake, crash, label = None, None, _label()
    if label is not None:
        _end_with_parent()
    try:
        with told(overrides):
            found = (*do(composed, outputs, quiet=not log.isEnabledFor(logging.INFO), label=label),)
    except UserError as error:  # raised, it would stop a sweep, and Hydra would add lines of its own
        if not isinstance(error, StageError):  # whose log tells more
            shutil.rmtree(outputs / ".hydra", ignore_errors=True)
            forget(outputs, _logs())
        mistake = str(error)
    except Exception as error:
        if not outcomes.sweeps():
            raise
        log.exception("job %s failed", ran.job.num)
        crash = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    outcome = Outcome(
        number=ran.job.num if outcomes.sweeps() else 0,
        overrides=tuple(overrides),
        format=composed.format,
        found=found,
        mistake=mistake,
        crash=crash,
        seconds=time.monotonic() - began,
    )
    outcomes.keep(outcome)
    return outcome


def _label() -> str | None:
    """What a job is called whose lines stand between those of others."""
    ran = HydraConfig.get()
    return f"#{ran.job.num}" if outcomes.sweeps() and "BasicLauncher" not in ran.launcher._target_ else None


@cache
def _end_with_parent() -> None:
    """End this process when the one that started it is gone: joblib's would outlive a killed sweep for good."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tell(jobs: Sequence[Outcome]) -> int:
    """Show what jobs came to; returns the exit code that this is worth."""
    done = [found for each in jobs for found in each.found]
    if {each.format for each in jobs} == {"json"}:
        documents = [tables.as_json(each) for each in done]
        if documents:
            sys.stdout.write(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n")
    elif log.isEnabledFor(logging.INFO):
        tables.show(done, jobs)
    results = [result for each in jobs for result in each.results]
    gates = [gate for each in results if each.manifest is not None for gate in each.manifest.gates]
    failed = [check for gate in gates for check in gate.checks if not check.passed]
    mistakes = [each.mistake for each in jobs if each.mistake is not None]
    for each in results:
        rest = "the bundle has the others" if each.bundle else "the others were made"
        mistakes += [f"{failure}; {rest}" for failure in each.failures]
    if failed:
        sentence = f"the gate failed: {tables.check_sentence(failed[0])}; the bundle is marked as failed"
        programs = [made for each in results for made in each.programs]
        if any(map(too_far, gates)) and all(map(_searchable, programs)):
            sentence += "; recipe=auto looks for the smallest recipe that passes"
        sys.stderr.write(f"et-pipeline: {sentence}\n")
    crashes = [f"job {each.number} failed by a fault of ours: {each.crash}" for each in jobs if each.crash]
    for line in dict.fromkeys((*mistakes, *crashes)):
        sys.stderr.write(f"et-pipeline: {line}\n")
    return 1 if crashes else EXIT_USER if mistakes else EXIT_GATE if failed else 0


def _logs() -> list[Path]:
    """The files that Hydra logs into, closed; what a launcher logs after this must not open them again."""
    root, found = logging.getLogger(), []
    for handler in [each for each in root.handlers if isinstance(each, logging.FileHandler)]:
        handler.close()
        root.removeHandler(handler)
        found.append(Path(handler.baseFilename))
    return found


def _searchable(made: Made) -> bool:
    """Whether `recipe=auto` would do for this program, and has not been tried."""
    settings, backend = made.settings, get_backend(made.settings.backend.name)
    recipe = settings.recipe.model_copy(update={"scheme": "8da4w", "group_size": 32})
    possible = backend.supports(recipe.quantization).ok and not backend.calibrated
    return possible and settings.model.task != "embedding" and not made.trials
