"""`et-pipeline`: Hydra composes, `settings` validates, `pipeline` runs, `report` shows.

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
from typing import TYPE_CHECKING, get_args

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from et_pipeline import CONF
from et_pipeline.backends import get_backend
from et_pipeline.cli.plan import ALL_DEVICES, forecast
from et_pipeline.cli.programs import chosen_programs
from et_pipeline.errors import EXIT_GATE, EXIT_USER, StageError, UserError
from et_pipeline.forecast import Survey
from et_pipeline.mistakes import disk_sentence, guarded
from et_pipeline.report import progress, tables
from et_pipeline.settings import Settings, StageName, first_line

if TYPE_CHECKING:
    from et_pipeline.pipeline import Result

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
            programs = chosen_programs(composed)
            for settings in programs:
                _check(settings)
                formats.add(settings.format)
            if programs[0].mode == "plan":
                done.extend(map(forecast, programs))
                return
            done.append(_run(programs, outputs))
        except (UserError, OSError, InterpolationResolutionError) as error:
            sentence = disk_sentence(error) if isinstance(error, OSError) else str(error)
            if isinstance(error, InterpolationResolutionError):
                sentence = f"{first_line(error).rstrip('.')}; write \\${{ where a value has ${{"
            if not isinstance(error, StageError):  # whose log tells more
                _forget(outputs)
            mistakes.append(sentence)  # raised here, it would stop a sweep, and Hydra would add lines of its own

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
        sentence = tables.check_sentence(failed[0])
        sys.stderr.write(f"et-pipeline: the gate failed: {sentence}; the bundle is marked as failed\n")
    for mistake in mistakes:
        sys.stderr.write(f"et-pipeline: {mistake}\n")
    sys.exit(code or (EXIT_USER if mistakes else EXIT_GATE if failed else 0))


def _run(programs: list[Settings], outputs: Path) -> Result:
    settings = programs[0]
    if settings.device.name == ALL_DEVICES:
        raise UserError(f"device={ALL_DEVICES} is for mode=plan; choose one phone, or add mode=plan")
    if settings.plot is not None:
        raise UserError(f"plot={settings.plot} is for mode=plan; leave it out, or add mode=plan")
    from et_pipeline.pipeline import run

    face = progress.face(quiet=settings.format == "json" or not log.isEnabledFor(logging.INFO))
    try:
        return run(programs, face, outputs)
    finally:
        face.close()


def _check(settings: Settings) -> None:
    """Refuse what the backend cannot do. A plan is quick because it does not import the stages, unless for this."""
    if not get_backend(settings.backend.name).supports(settings.recipe.quantization).ok or settings.mode == "run":
        from et_pipeline.pipeline import check

        check(settings)


def _forget(outputs: Path) -> None:
    """A run that a mistake ended leaves nothing behind: remove what Hydra and the stages wrote, then empty folders.

    `hydra.run.dir` may be any folder, the current one too: what the user has in it stays.
    """
    written = {outputs / f"{name}.log" for name in (*get_args(StageName), "random", "gguf")}
    for handler in logging.getLogger().handlers:
        handler.close()
        if isinstance(handler, logging.FileHandler):
            written.add(Path(handler.baseFilename))
    shutil.rmtree(outputs / ".hydra", ignore_errors=True)
    for path in written:
        path.unlink(missing_ok=True)
    here = Path.cwd().resolve()
    for folder in (outputs.resolve(), *list(outputs.resolve().parents)[:2]):
        if folder == here or folder in here.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # other runs are in it
            return
