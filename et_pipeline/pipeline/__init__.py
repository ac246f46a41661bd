"""Stage order, cache keys and resume: `run` takes the settings of one or several programs to a bundle.

Each stage names what it needs, the settings it reads and the libraries it uses; together with the code's own hash
these make its cache key. A run that was killed continues after the last stage that finished.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from et_pipeline import forms, host
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.forecast import architecture_of
from et_pipeline.manifest import Gate, Manifest
from et_pipeline.pipeline import history
from et_pipeline.pipeline.acquiring import acquire
from et_pipeline.pipeline.checks import check, given_texts
from et_pipeline.pipeline.order import Stage, stages, trial
from et_pipeline.pipeline.original import original
from et_pipeline.pipeline.search import Candidate, candidates, choose
from et_pipeline.pipeline.steps import Face, Made, Named, finish, heavy
from et_pipeline.settings import Recipe, Settings, shortened
from et_pipeline.stages import Tried, bundle

__all__ = ["Face", "Made", "Result", "check", "given_texts", "run", "stages", "target"]

log = logging.getLogger(__name__)


@dataclass
class Result:
    """What a run made.

    Attributes:
        programs: in the order of the settings.
        failures: a sentence on each program that could not be made although others were.
        checkpoint: the folder of the original weights.
        bundle: the bundle's folder, or None if the run stopped before it.
        manifest: the bundle's.
    """

    programs: list[Made] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    checkpoint: Path | None = None
    bundle: Path | None = None
    manifest: Manifest | None = None


def run(programs: Sequence[Settings], face: Face, logs: Path, yields: bool = False) -> Result:
    """Run all stages up to `until`, reusing what the cache holds, and put the programs into one bundle.

    Args:
        programs: the settings of each program, which differ in backend, recipe and device.
        face: shows progress.
        logs: folder for what the stages' processes print.
        yields: shorten a context that the model does not have, instead of refusing it.

    Raises:
        UserError: an input is missing, broken or does not fit the settings. Where some programs could be made, those
            that could not are `failures` of the result instead.
        StageCrash: a stage's process ended by a fault.
    """
    first = programs[0]
    root = host.expanded(first.paths.cache).resolve()
    bundles = host.expanded(first.paths.bundles).resolve()
    around = next(path for path in (bundles, *bundles.parents) if path.exists())
    if not around.is_dir():  # found last, after hours
        raise UserError(f"paths.bundles={first.paths.bundles} is inside a file or is one; name a folder")
    if first.until == "bundle" and not os.access(around, os.W_OK):
        raise UserError(f"paths.bundles={first.paths.bundles} is to be made in {around}, where nothing can be written")
    texts = [given_texts(settings) for settings in programs]
    source = original(programs, texts[0], root, face, logs)
    if yields:
        longest = read_facts(Folder(source.folder)).max_position
        programs = [shortened(settings, longest) for settings in programs]

    result = Result(checkpoint=source.folder)
    errors: list[UserError] = []
    for settings, given in zip(programs, texts, strict=True):
        kind = forms.choose(settings.model.task, settings.backend)
        model = settings.model.model_copy(update=source.checkpoint.model_dump())
        fitted = settings.model_copy(update={"model": forms.get(kind).fit(model)})
        made = Made(fitted, kind, dict(source.entries), list(source.reused))
        shown = Named(face, target(settings)) if len(programs) > 1 else face
        try:
            _make(made, {**source.inputs, **given}, root, shown, logs)
        except UserError as error:
            errors.append(error if shown is face else type(error)(f"{target(settings)}: {error}"))
        else:
            result.programs.append(made)
    if not result.programs:
        raise errors[0]
    result.failures = [str(error) for error in errors]
    if first.until != "bundle":
        return result

    face.start("bundle")
    parts = [(made.settings, forms.get(made.kind), made.entries) for made in result.programs]
    result.bundle, result.manifest, cost = bundle.run(parts, source.files)
    face.finish("bundle", cost, False)
    history.note(result.bundle, result.manifest, result.programs[0].reused, root)
    return result


def target(settings: Settings) -> str:
    """What a program is for: its backend, and the chip if it is for one."""
    backend = settings.backend
    return f"{backend.name} {backend.soc}" if backend.soc else backend.name


def _make(made: Made, extra: Mapping[str, tuple[Path, str]], root: Path, face: Face, logs: Path) -> None:
    """Run the stages of one program up to `until`, into `made`."""
    facts, settings = acquire(made, extra, root, face, logs), made.settings
    ordered = []
    if settings.recipe.prefer is not None and settings.until != "acquire":
        known = architecture_of(Folder(extra["checkpoint"][0]))
        ordered = candidates(settings, known, facts.family, facts.stored is not None)

    def do(stage: Stage, made: Made, face: Face) -> None:
        entry, reused = heavy(stage, made, extra, facts.family, root, face, logs)
        finish(made, stage.name, entry, reused, face)

    if ordered:
        _search(made, ordered, do, face)
    _go_on(made, made.settings.until, do, face)


_Do = Callable[[Stage, Made, Face], None]


def _go_on(made: Made, last: str, do: _Do, face: Face) -> None:
    """Run the stages that are not done, up to that one."""
    for stage in stages(made.settings, made.kind):
        if last in made.entries or made.settings.until in made.entries:
            return
        if stage.name not in made.entries:
            do(stage, made, face)


def _search(made: Made, ordered: Sequence[Candidate], do: _Do, face: Face) -> None:
    """Put an ordinary recipe in the place of `recipe=auto`, and make its program up to `verify`."""
    wanted = made.settings
    acquired, reused = dict(made.entries), list(made.reused)

    def attempt(recipe: Recipe) -> Tried:
        tried = Made(wanted.model_copy(update={"recipe": recipe}), made.kind, dict(acquired))
        for stage in trial(tried.settings, made.kind):
            do(stage, tried, Named(face, recipe.name))
        return Tried.model_validate(tried.entries["trial"].figures)

    def make(recipe: Recipe) -> Gate | None:
        made.settings = wanted.model_copy(update={"recipe": recipe})
        made.entries, made.reused = dict(acquired), list(reused)
        _go_on(made, "verify", do, Named(face, recipe.name))
        if "verify" not in made.entries:
            return None
        form = forms.get(made.kind)
        verdict: Gate = form.quality(form.verified.model_validate(made.entries["verify"].figures), made.settings).gate
        failed = [check.name for check in verdict.checks if not check.passed]
        if failed:
            log.warning("the program of %s fails the gate: %s", recipe.name, ", ".join(failed))
        return verdict

    made.trials = choose(ordered, wanted.recipe, attempt, make)
