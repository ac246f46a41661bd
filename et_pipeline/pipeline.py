"""Stage order, cache keys and resume: `run` takes the settings of one or several programs to a bundle.

Each stage names what it needs, the settings it reads and the libraries it uses; together with the code's own hash
these make its cache key. A run that was killed continues after the last stage that finished.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from et_pipeline import cache, forms, plugins
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import Facts, read_tokenizer
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.source import gguf_file, prepare
from et_pipeline.errors import StageError, UserError
from et_pipeline.evaluation import calibration, perplexity, text_source
from et_pipeline.evaluation.tasks import evaluation_file, read_items
from et_pipeline.manifest import Manifest
from et_pipeline.settings import Backend, Calibration, Evidence, Settings
from et_pipeline.stages import Acquired, acquire, bundle
from et_pipeline.worker import StageKilled, Tick, run_stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        needs: earlier stages whose results it reads.
        config: the settings that it reads, by parameter name of its `run`.
        libraries: distributions whose version its result depends on.
        host: whether its result depends on the machine it ran on.
        texts: files besides the checkpoint that it reads, where a run has them; `gguf` is what that was made from.
    """

    name: str
    needs: tuple[str, ...]
    config: Callable[[Settings], dict[str, BaseModel]]
    libraries: tuple[str, ...]
    host: bool = False
    texts: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Where its `run` lives."""
        return f"et_pipeline.stages.{self.name}"


_EXPORT_LIBRARIES = ("torch", "torchao", "transformers", "executorch")
_QUALCOMM = ("onnxruntime-qnn",)


def stages(settings: Settings) -> tuple[Stage, ...]:
    """The heavy stages of a run, in order.

    Most backends take a model that was quantized before it is exported. One with calibration quantizes the exported
    program, because the ranges of activations belong to its operators.
    """
    backend = get_backend(settings.backend.name, settings.backend.soc)

    kind = forms.choose(settings.model.task, settings.backend)

    def quantization(s: Settings) -> dict[str, BaseModel]:
        return {"quantization": s.recipe.quantization}

    def compiled(s: Settings) -> dict[str, BaseModel]:
        return {"kind": kind, "backend": s.backend.model_copy(update={"also": ()})}  # other chips change nothing

    def export(s: Settings) -> dict[str, BaseModel]:
        # No other setting of a backend counts here.
        return {**quantization(s), "kind": kind, "form": s.model.form, "backend": Backend(name=s.backend.name)}

    if backend.calibrated:
        making = (
            Stage("export", ("acquire",), export, _EXPORT_LIBRARIES),
            Stage(
                "quantize",
                ("acquire", "export"),
                lambda s: {**quantization(s), **compiled(s)},
                (*_EXPORT_LIBRARIES, *_QUALCOMM),
                texts=("calibration",),
            ),
            Stage("lower", ("export", "quantize"), compiled, (*_EXPORT_LIBRARIES, *_QUALCOMM)),
        )
    else:
        needs = ("acquire",) if settings.recipe.calibrated else ()  # the chat format of calibration text
        making = (
            Stage("quantize", needs, quantization, ("torch", "torchao", "transformers"), texts=("calibration",)),
            Stage("export", ("acquire", "quantize"), export, _EXPORT_LIBRARIES),
            Stage("lower", ("export",), compiled, _EXPORT_LIBRARIES),
        )
    verify = Stage(
        "verify",
        ("acquire", "quantize", "lower"),
        lambda s: {
            **export(s),
            "task": s.task,
            "verify": _evidence(s),
        },
        _EXPORT_LIBRARIES,
        texts=("evaluation", "text", "gguf"),
    )
    measure = Stage(
        "measure", ("acquire", "lower"), lambda s: {"kind": kind, "measure": s.measure}, ("executorch",), host=True
    )
    return (*making, verify, measure) if backend.timed else (*making, verify)


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
        entries: finished stages in order.
        reused: names of those that were in the cache already.
    """

    settings: Settings
    entries: dict[str, cache.Entry] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)


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


def check(settings: Settings) -> None:
    """Refuse a recipe that the backend has no kernel for, before any work is done.

    Raises:
        UserError: says why, and what works.
    """
    recipe, name = settings.recipe, settings.backend.name
    backend = get_backend(name, settings.backend.soc)
    support = backend.supports(recipe.quantization)
    if not support.ok:
        raise UserError(
            f"recipe.scheme={recipe.scheme} with recipe.group_size={recipe.group_size} and "
            f"recipe.mapping={recipe.mapping} does not run on backend={settings.backend.name}: "
            f"{support.reason}; {support.instead}"
        )
    _check_algorithm(settings)
    backend.check()
    if settings.backend.external_weights and name != "xnnpack":
        raise UserError(f"backend.external_weights=true is for backend=xnnpack; backend={name} keeps weights inside")
    forms.get(forms.choose(settings.model.task, settings.backend)).check(settings)


def _check_algorithm(settings: Settings) -> None:
    """Refuse another rounding than to the nearest, and what goes with it, where it has no place."""
    recipe = settings.recipe
    asked = [
        (f"recipe.algorithm={recipe.algorithm}", recipe.algorithm != "rtn", "use recipe.algorithm=rtn"),
        (f"recipe.transform={recipe.transform}", recipe.transform != "none", "use recipe.transform=none"),
        (f"recipe.mixed_bits={recipe.mixed_bits}", recipe.mixed_bits is not None, "use recipe.mixed_bits=null"),
    ]
    for key, wanted, instead in asked:
        if not wanted:
            continue
        if recipe.scheme not in ("8da4w", "int4_weight_only"):
            raise UserError(
                f"{key} is for 4-bit weights, and recipe.scheme={recipe.scheme} has none that are quantized before the "
                f"export; {instead}, or recipe=8da4w"
            )
        if recipe.mapping == "asymmetric":
            raise UserError(f"{key} has no zero points; use recipe.mapping=symmetric_no_clipping_error")
        if settings.model.task == "embedding" and recipe.algorithm != "hqq":
            raise UserError(f"{key} is for models that answer; with model.task=embedding use recipe=8da4w as it is")
    if recipe.mixed_bits is not None and recipe.scheme != "8da4w":
        raise UserError(f"recipe.mixed_bits={recipe.mixed_bits} is for recipe.scheme=8da4w; use it, or leave it out")
    if recipe.calibrated and recipe.calibration is None:
        key = next(key for key, wanted, _ in asked if wanted)
        raise UserError(f"{key} needs recipe.calibration, a text to calibrate with; recipe=8da4w_gptq has one")


def run(programs: Sequence[Settings], face: Face, logs: Path) -> Result:
    """Run all stages up to `until`, reusing what the cache holds, and put the programs into one bundle.

    Args:
        programs: the settings of each program, which differ in backend, recipe and device.
        face: shows progress.
        logs: folder for what the stages' processes print.

    Raises:
        UserError: an input is missing, broken or does not fit the settings. Where some programs could be made, those
            that could not are `failures` of the result instead.
        StageCrash: a stage's process ended by a fault.
    """
    first = programs[0]
    root = first.paths.cache.expanduser().resolve()
    held_out = evaluation_file(first.task)
    if held_out is not None:
        read_items(held_out)  # a broken line is better found now than after the export
    texts = [given_texts(settings) for settings in programs]
    tick = face.start("acquire")
    place = Place(root, logs, tick, lambda: face.wait("acquire"))
    source, files = prepare(first.model.checkpoint, first.seed, place)
    extra = {"checkpoint": (source, cache.digest(files))}
    gguf = gguf_file(first.model.source)
    if gguf is not None:
        extra["gguf"] = (gguf, extra["checkpoint"][1])
    if held_out is not None:
        extra["evaluation"] = (held_out, cache.sha256_file(held_out))

    result = Result(checkpoint=source)
    errors: list[UserError] = []
    for settings, given in zip(programs, texts, strict=True):
        sizes = forms.get(forms.choose(settings.model.task, settings.backend)).fit(settings.model)
        settings = settings.model_copy(update={"model": sizes})
        made = Made(settings)
        shown = _Named(face, target(settings)) if len(programs) > 1 else face
        try:
            _make(made, source, files, extra | given, root, shown, logs)
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
    parts = [(made.settings, made.entries) for made in result.programs]
    result.bundle, result.manifest, cost = bundle.run(parts, source, files)
    face.finish("bundle", cost, False)
    return result


def _no_tick(done: int, total: int) -> None:
    """Small files are read before anyone looks."""


def target(settings: Settings) -> str:
    """What a program is for: its backend, and the chip if it is for one."""
    backend = settings.backend
    return f"{backend.name} {backend.soc}" if backend.soc else backend.name


class _Named:
    """A face that says which program a stage belongs to."""

    def __init__(self, face: Face, name: str) -> None:
        self.face, self.name = face, name

    def start(self, stage: str) -> Tick:
        return self.face.start(f"{self.name}: {stage}")

    def wait(self, stage: str) -> None:
        self.face.wait(f"{self.name}: {stage}")

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        self.face.finish(f"{self.name}: {stage}", cost, reused)


def _make(
    made: Made,
    source: Path,
    files: dict[str, str],
    extra: Mapping[str, tuple[Path, str]],
    root: Path,
    face: Face,
    logs: Path,
) -> None:
    """Run the stages of one program up to `until`, into `made`."""
    settings = made.settings
    form = settings.model.form
    key = {
        "code": cache.code_version(acquire.__name__),
        "files": files,
        "form": form.model_dump(),
        "libraries": cache.library_versions(("transformers", "tokenizers", "pytorch-tokenizers"))
        | plugins.versions(("families", name) for name in plugins.names("families")),
    }

    def check(out: Path) -> tuple[dict[str, Any], dict[str, float]]:
        acquire.glance(source, form)
        given = {"checkpoint": source}
        if "transformers" in sys.modules:  # who has it, as in a notebook, need not wait for another process to load it
            started, cpu = time.monotonic(), time.process_time()
            figures = acquire.run(given, out, _no_tick, form=form).model_dump(mode="json")
            wall_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
            return figures, {"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2), "peak_rss_bytes": 0}
        return run_stage(acquire.__name__, given, out, {"form": form}, settings.seed, logs / "acquire.log", _no_tick)

    entry, reused = cache.build(root / "acquire" / cache.digest(key), check, key, lambda: face.wait("acquire"))
    _finish(made, "acquire", entry, reused, face)
    for warning in Acquired.model_validate(entry.figures).warnings:
        log.warning(warning)
    facts = Facts.read(entry.folder)
    _check_task(settings, facts)
    _check_texts(settings, facts, source, {name: path for name, (path, _) in extra.items()})
    for stage in stages(settings):
        if settings.until in made.entries:
            return
        entry, reused = _heavy(stage, made, extra, root, face, logs)
        _finish(made, stage.name, entry, reused, face)


def _calibration(settings: Settings) -> Calibration | None:
    """What the recipe calibrates with, if it does."""
    calibrates = get_backend(settings.backend.name).calibrated or settings.recipe.calibrated
    return settings.recipe.calibration if calibrates else None


def given_texts(settings: Settings) -> dict[str, tuple[Path, str]]:
    """The path and the content's hash of each text that a run reads and that is not built in, by name.

    Raises:
        UserError: one does not exist, or is no text.
    """
    chosen = _calibration(settings)
    sources = {"calibration": (calibration.KEY, chosen.source)} if chosen else {}
    if settings.verify.text is not None:
        sources["text"] = (perplexity.KEY, settings.verify.text)
    found = {}
    for name, (key, source) in sources.items():
        path = text_source.resolve(key, source)
        if path is not None:
            files = text_source.files(key, source, path)
            found[name] = (path, cache.digest([cache.sha256_file(file) for file in files]))
    return found


def _check_texts(settings: Settings, facts: Facts, source: Path, paths: Mapping[str, Path]) -> None:
    """Refuse too short a text, or one of tokens that the model does not have, before anything heavy starts."""
    chosen, longest = _calibration(settings), settings.model.max_context
    if chosen is not None:
        calibration.sequences(chosen, paths.get("calibration"), facts, read_tokenizer(source), longest)
    if settings.verify.text is not None:
        count = _evidence(settings).text_tokens
        perplexity.text_ids(settings.verify.text, paths.get("text"), count, facts, read_tokenizer(source))


def _evidence(settings: Settings) -> Evidence:
    backend = get_backend(settings.backend.name, settings.backend.soc)
    return settings.verify.evidence(slow=backend.can_execute and not backend.timed)


def _check_task(settings: Settings, facts: Facts) -> None:
    """Refuse a model of another kind than `model.task` says; a checkpoint's files tell it."""
    found = "text-generation" if facts.pooling is None else "embedding"
    if settings.model.task != found:
        what = "generates text" if facts.pooling is None else "is an encoder, which embeds texts"
        instead = "model=custom task=chat" if facts.pooling is None else "model=custom_embedding"
        raise UserError(
            f"model.task={settings.model.task}, but model.source={settings.model.source} ({facts.family}) {what}; use "
            f"{instead} with it"
        )


def _plugins(config: Mapping[str, Any], facts: Path) -> dict[str, str]:
    """Versions of other packages that a stage's result depends on: of the backend's, the form's and the family's."""
    used: list[tuple[plugins.Group, str]] = [("families", Facts.read(facts).family)]
    if "backend" in config:
        used.append(("backends", config["backend"].name))
    if "kind" in config:
        used.append(("forms", config["kind"].name))
    return plugins.versions(used)


def _finish(made: Made, stage: str, entry: cache.Entry, reused: bool, face: Face) -> None:
    made.entries[stage] = entry
    if reused:
        made.reused.append(stage)
    face.finish(stage, entry.cost, reused)


def _heavy(
    stage: Stage, made: Made, extra: Mapping[str, tuple[Path, str]], root: Path, face: Face, logs: Path
) -> tuple[cache.Entry, bool]:
    settings = made.settings
    config = stage.config(settings)
    given = {name: extra[name] for name in ("checkpoint", *stage.texts) if name in extra}
    inputs = {name: path for name, (path, _) in given.items()}
    inputs |= {name: made.entries[name].folder for name in stage.needs}
    key = {
        "code": cache.code_version(stage.module),
        "config": {name: value.model_dump(mode="json") for name, value in config.items()},
        "inputs": {name: content for name, (_, content) in given.items()}
        | {name: made.entries[name].content for name in stage.needs},
        "libraries": cache.library_versions(stage.libraries) | _plugins(config, made.entries["acquire"].folder),
        "seed": settings.seed,
    }
    if stage.host:
        key["host"] = [platform.node(), platform.machine(), platform.processor()]
    tick = face.start(stage.name)

    def make(out: Path) -> tuple[dict[str, Any], dict[str, float]]:
        try:
            return run_stage(stage.module, inputs, out, config, settings.seed, logs / f"{stage.name}.log", tick)
        except StageKilled as error:
            if stage.name == "export" or settings.backend.name != "qnn":
                raise
            raise StageError(
                f"stage {stage.name}: Qualcomm's libraries took their process down (it {error.ending}, as it is when "
                f"memory runs out); {logs / stage.name}.log has what they said"
            ) from error

    return cache.build(root / stage.name / cache.digest(key), make, key, lambda: face.wait(stage.name))
