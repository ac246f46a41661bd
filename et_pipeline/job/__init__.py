"""A job: what a command line or a call asks for, from what Hydra composed to a bundle or a forecast."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from omegaconf import DictConfig

from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.job.mistakes import resumed
from et_pipeline.job.plan import ALL_DEVICES, forecast
from et_pipeline.job.programs import chosen_programs, context_is_typed, told_apart
from et_pipeline.job.search_path import register
from et_pipeline.report import progress
from et_pipeline.settings import Settings, StageName
from et_pipeline.survey import Survey

if TYPE_CHECKING:
    from et_pipeline.pipeline import Result

register()

# What stages of no name for `until` print.
_ALSO = (
    "random",
    "gguf",
    "merge_lora",
    "training",
    "prune_depth",
    "prune_width",
    "distill",
    "calibration",
    "sensitivity",
    "round",
    "evidence",
    "trial",
    "distance",
)


def do(composed: DictConfig, outputs: Path, quiet: bool, label: str | None = None) -> list[Result] | list[Survey]:
    """Run the programs of a bundle, or forecast each of them.

    Args:
        composed: what Hydra made of the overrides, without its own node.
        outputs: folder for what the stages print; made if it is needed.
        quiet: show no progress.
        label: what to call the job, if others show theirs at the same time.

    Raises:
        UserError: a setting, an input or a combination of them does not work.
    """
    programs = told_apart(chosen_programs(composed))
    for settings in programs:
        _check(settings)
    if programs[0].mode == "plan":
        return [forecast(settings, yields=not context_is_typed()) for settings in programs]
    return [_run(programs, outputs, quiet, label)]


def _run(programs: list[Settings], outputs: Path, quiet: bool, label: str | None) -> Result:
    settings = programs[0]
    if settings.device.name == ALL_DEVICES:
        raise UserError(f"device={ALL_DEVICES} is for mode=plan; choose one phone, or add mode=plan")
    if settings.plot is not None:
        raise UserError(f"plot={settings.plot} is for mode=plan; leave it out, or add mode=plan")
    from et_pipeline.pipeline import run

    outputs.mkdir(parents=True, exist_ok=True)
    face = progress.face(quiet or settings.format == "json", label)
    try:
        with resumed():
            return run(programs, face, outputs, yields=not context_is_typed())
    finally:
        face.close()


def _check(settings: Settings) -> None:
    """Refuse what the backend cannot do. A plan is quick because it does not import the stages, unless for this."""
    if not get_backend(settings.backend.name).supports(settings.recipe.quantization).ok or settings.mode == "run":
        from et_pipeline.pipeline import check

        check(settings)


def forget(outputs: Path, logs: Iterable[Path] = ()) -> None:
    """A job that a mistake ended leaves nothing behind: remove what was written, then empty folders.

    `outputs` may be any folder, the current one too: what the user has in it stays.

    Args:
        outputs: as of `do`.
        logs: files that others wrote besides the stages.
    """
    for path in (*logs, *(outputs / f"{name}.log" for name in (*get_args(StageName), *_ALSO))):
        path.unlink(missing_ok=True)
    remove_empty(outputs)


def remove_empty(outputs: Path) -> None:
    """Remove the folder of a job, and the two above it, as far as nothing is in them."""
    here = Path.cwd().resolve()
    for folder in (outputs.resolve(), *list(outputs.resolve().parents)[:2]):
        if folder == here or folder in here.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # other runs are in it
            return
