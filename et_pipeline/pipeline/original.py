"""The model that is deployed: a checkpoint, and what is made of it before anything is quantized."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from et_pipeline import cache, forms
from et_pipeline.architecture import read_architecture
from et_pipeline.checkpoints import adapter
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.source import gguf_file, prepare
from et_pipeline.errors import UserError
from et_pipeline.forecast import forecast
from et_pipeline.pipeline.acquiring import acquire
from et_pipeline.pipeline.order import TRAINING_LIBRARIES, UNADAPTED, Stage, drawn, samples
from et_pipeline.pipeline.steps import Face, Made, finish, heavy
from et_pipeline.settings import Adapt, Checkpoint, Prune, Settings
from et_pipeline.stages import ADAPTATIONS
from et_pipeline.survey import sized

log = logging.getLogger(__name__)

_MERGE = Stage("merge_lora", (), {}, ("torch", "transformers", "peft"), texts=("adapter",))


class Original(NamedTuple):
    """What all programs of a run are made from.

    Attributes:
        checkpoint: the source, and the adapter that was merged into it.
        folder: the checkpoint, in Hugging Face layout.
        files: SHA-256 of the files of the source, by name.
        inputs: what stages read besides each other's results, with hashes of the contents: `checkpoint`, `gguf` if it
            was made from such a file, and `UNADAPTED` if it was pruned or trained.
        entries: results of what has changed it.
        reused: those among them that were in the cache.
    """

    checkpoint: Checkpoint
    folder: Path
    files: dict[str, str]
    inputs: Mapping[str, tuple[Path, str]]
    entries: dict[str, cache.Entry]
    reused: list[str]


def original(
    programs: Sequence[Settings], texts: Mapping[str, tuple[Path, str]], root: Path, face: Face, logs: Path
) -> Original:
    """Get the checkpoint, and adapt it as the settings say.

    Args:
        programs: settings of each, alike but for what is made of the original.
        texts: files that are read beside it, with hashes of their contents: `training_text`.
        root: the cache.
        face: shows progress.
        logs: folder for what the stages' processes print.

    Raises:
        UserError: it is not to be had, or what is to be done with it does not fit.
    """
    settings = programs[0]
    place = Place(root, logs, face.start("acquire"), lambda: face.wait("acquire"))
    found = adapter.prepare(settings.model.checkpoint, settings.seed, place)
    inputs = {**texts, "checkpoint": (found.folder, cache.digest(found.files))}
    made = Made(settings, forms.choose(settings.model.task, settings.backend))

    def do(stage: Stage, family: str = "") -> tuple[Path, str]:
        entry, reused = heavy(stage, made, inputs, family, root, face, logs)
        finish(made, stage.name, entry, reused, face)
        return entry.folder, entry.content

    gguf = gguf_file(settings.model.source)
    if found.adapter is not None:
        _say_base(found)
        inputs["adapter"] = (found.adapter.path, cache.digest(found.adapter.hashes()))
        inputs["checkpoint"] = do(_MERGE)
    elif gguf is not None and not _changes(settings.adapt):
        inputs["gguf"] = (gguf, inputs["checkpoint"][1])
    if _changes(settings.adapt):
        folder = Folder(inputs["checkpoint"][0])
        adapt = _sized(programs, folder)
        inputs["original"] = inputs["teacher"] = inputs["checkpoint"]
        if settings.adapt.teacher is not None:
            inputs["teacher"] = _teacher(settings.adapt.teacher, settings.seed, place)
        family = acquire(made, inputs, root, face, logs).family
        drawn_for = settings.model_copy(update={"recipe": settings.recipe.model_copy(update={"calibration": None})})
        for part, asked in samples(drawn_for, True).items():
            do(drawn(part, asked), family)
        for stage in _changing(adapt, made.entries):
            inputs["checkpoint"] = do(stage, family)
        inputs["unadapted"], answers = inputs["original"], made.entries["evidence"]
        inputs["unadapted_answers"] = (answers.folder, answers.content)
    entries = {name: entry for name, entry in made.entries.items() if name in ADAPTATIONS}
    kept = {name: each for name, each in inputs.items() if name in ("checkpoint", "gguf", *UNADAPTED)}
    reused = [name for name in made.reused if name in entries]
    return Original(found.checkpoint, inputs["checkpoint"][0], found.files, kept, entries, reused)


def _say_base(found: adapter.Found) -> None:
    """Name another base than the adapter does: nothing but its shapes shows whether they belong together."""
    assert found.adapter is not None
    base = found.adapter.base
    if base is not None and Path(base).name != Path(found.checkpoint.source).name:
        log.warning(
            "%s was trained on %s, as it says, and is merged into %s",
            found.adapter.path,
            base,
            found.checkpoint.source,
        )


def _sized(programs: Sequence[Settings], folder: Folder) -> Adapt:
    """What is done to the model; it has to fit the device with the program that takes most memory."""
    settings, where = programs[0], str(folder.path / CONFIG)
    if settings.adapt.size != "device" or not settings.adapt.prunes:
        return settings.adapt
    known = read_architecture(folder.config, where)

    def resident(each: Settings) -> int:
        return forecast(each, known, each.recipe, each.device).resident_bytes

    largest = max(programs, key=resident)
    if largest.recipe.prefer is not None:
        log.warning("adapt.size=device is by the size of 8da4w, and what recipe=auto finds may be larger")
    adapt = sized(largest, folder.config, where)
    log.info("adapt.size=device: %s of the parameters stay", adapt.size)
    return adapt


def _changes(adapt: Adapt) -> bool:
    return bool(adapt.prunes) or adapt.distill


def _changing(adapt: Adapt, done: Collection[str]) -> list[Stage]:
    """The stages that make a smaller or a wiser model."""
    needs = tuple(name for name in ("acquire", "training", "evidence") if name in done)
    stage = Stage("", needs, {}, TRAINING_LIBRARIES, texts=("training_text", "original", "teacher"))
    made = [
        replace(stage, name=name, config={"prune": Prune(by=name, size=adapt.share), "text": adapt.text}, does="prune")
        for name in adapt.prunes
    ]
    if adapt.distill:
        config = {"training": adapt.distillation, "text": adapt.text}
        made.append(replace(stage, name="distill", config=config, resumes=True))
    return made


def _teacher(source: str, seed: int, place: Place) -> tuple[Path, str]:
    try:
        folder, files = prepare(Checkpoint(source=source), seed, place)
    except UserError as error:
        raise UserError(f"adapt.teacher={source} is not to be had: {error}") from error
    return folder, cache.digest(files)
