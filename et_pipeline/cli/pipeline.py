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
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from et_pipeline import CONF
from et_pipeline.backends import get_backend
from et_pipeline.errors import EXIT_GATE, EXIT_USER, StageError, UserError
from et_pipeline.evaluation.gate import too_far
from et_pipeline.job import do, forget
from et_pipeline.job.mistakes import guarded, told
from et_pipeline.report import tables
from et_pipeline.survey import Survey

if TYPE_CHECKING:
    from et_pipeline.pipeline import Made, Result

log = logging.getLogger("et_pipeline")


def main() -> None:
    """Console entry of `et-pipeline`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, and we decide what each is worth
    done: list[Result | Survey] = []
    mistakes: list[str] = []
    formats: set[str] = set()

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> None:
        outputs = Path(HydraConfig.get().runtime.output_dir)
        try:
            with told(sys.argv[1:]):
                found = do(composed, outputs, quiet=not log.isEnabledFor(logging.INFO))
        except UserError as error:
            if not isinstance(error, StageError):  # whose log tells more
                shutil.rmtree(outputs / ".hydra", ignore_errors=True)
                forget(outputs, _logs())
            mistakes.append(str(error))  # raised here, it would stop a sweep, and Hydra would add lines of its own
        else:
            done.extend(found if isinstance(found, list) else [found])
            formats.add(composed.format)

    code = guarded(job)
    if done and formats == {"json"}:
        documents = [tables.as_json(each) for each in done]
        sys.stdout.write(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n")
    elif done and log.isEnabledFor(logging.INFO):
        tables.show(done)
    results = [each for each in done if not isinstance(each, Survey)]
    gates = [gate for each in results if each.manifest is not None for gate in each.manifest.gates]
    failed = [check for gate in gates for check in gate.checks if not check.passed]
    for each in results:
        rest = "the bundle has the others" if each.bundle else "the others were made"
        mistakes += [f"{failure}; {rest}" for failure in each.failures]
    if failed:
        sentence = f"the gate failed: {tables.check_sentence(failed[0])}; the bundle is marked as failed"
        programs = [made for each in results for made in each.programs]
        if any(map(too_far, gates)) and all(map(_searchable, programs)):
            sentence += "; recipe=auto looks for the smallest recipe that passes"
        sys.stderr.write(f"et-pipeline: {sentence}\n")
    for mistake in mistakes:
        sys.stderr.write(f"et-pipeline: {mistake}\n")
    sys.exit(code or (EXIT_USER if mistakes else EXIT_GATE if failed else 0))


def _logs() -> list[Path]:
    """The files that Hydra logs into, closed."""
    found = []
    for handler in logging.getLogger().handlers:
        handler.close()
        if isinstance(handler, logging.FileHandler):
            found.append(Path(handler.baseFilename))
    return found


def _searchable(made: Made) -> bool:
    """Whether `recipe=auto` would do for this program, and has not been tried."""
    settings, backend = made.settings, get_backend(made.settings.backend.name)
    recipe = settings.recipe.model_copy(update={"scheme": "8da4w", "group_size": 32})
    possible = backend.supports(recipe.quantization).ok and not backend.calibrated
    return possible and settings.model.task != "embedding" and not made.trials
