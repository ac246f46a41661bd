"""bundle: programs, tokenizer and manifest in one folder, published whole."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline import cache, manifest
from et_pipeline.checkpoints.facts import TOKENIZER, Facts
from et_pipeline.forecast import RUNTIME_BYTES
from et_pipeline.forms.base import Form
from et_pipeline.host import expanded, machine
from et_pipeline.manifest import Manifest
from et_pipeline.settings import Settings
from et_pipeline.stages import ADAPTATIONS, Lowered, Quantized
from et_pipeline.states import goes_back
from et_pipeline.weight_bytes import table_bytes

MIN_RUNTIME = "1.3.0"  # what XNNPACK's programs, with each option, were seen to run on (Android build 1.3.x)
MIN_RUNTIME_OTHERS = "1.5.1"  # what makes the programs of other backends; none was seen to run on an older one
LIBRARIES = ("torch", "torchao", "transformers", "executorch", "tokenizers", "et-pipeline")


class Part(NamedTuple):
    """A program: its settings, what is known of its checkpoint, and what its stages made and found out."""

    settings: Settings
    facts: Facts
    form: Form
    entries: Mapping[str, cache.Entry]
    quantized: Quantized
    lowered: Lowered
    verified: Any  # of the type that the form says
    measured: Any | None

    @classmethod
    def of(cls, settings: Settings, form: Form, entries: Mapping[str, cache.Entry]) -> Part:
        """From the results of its stages."""
        measured = entries.get("measure")
        return cls(
            settings,
            Facts.read(entries["acquire"].folder),
            form,
            entries,
            Quantized.model_validate(entries["quantize"].figures),
            Lowered.model_validate(entries["lower"].figures),
            form.verified.model_validate(entries["verify"].figures),
            None if measured is None else form.measured.model_validate(measured.figures),
        )


def run(
    programs: Sequence[tuple[Settings, Form, Mapping[str, cache.Entry]]], source_files: Mapping[str, str]
) -> tuple[Path, Manifest, dict[str, float]]:
    """Judge the figures, write the manifest, publish the bundle under `paths.bundles`.

    A bundle that fails its gate is written too, marked as failed: its figures are what one needs then.

    Args:
        programs: the settings of each, its form, and the results of its stages; the first is what the bundle's own
            figures tell of.
        source_files: SHA-256 of the checkpoint's files by name.

    Returns:
        The bundle's folder, its manifest, and the stage's cost.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    parts = [Part.of(*each) for each in programs]
    settings = parts[0].settings
    folder = expanded(settings.paths.bundles).resolve() / settings.name
    lock = expanded(settings.paths.cache).resolve() / "bundle" / cache.digest(str(folder))
    with cache.locked(lock):
        folder.parent.mkdir(parents=True, exist_ok=True)
        cache.remove_leftovers(folder)
        temporary = cache.temporary_for(folder)
        try:
            described = [_program(part, temporary) for part in parts]
            shutil.copyfile(parts[0].entries["acquire"].folder / TOKENIZER, temporary / TOKENIZER)
            made = _manifest(parts[0], source_files, temporary, described)
            manifest.write(made, temporary)
            cache.publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    cost = {
        "wall_s": round(time.monotonic() - started, 2),
        "cpu_s": round(time.process_time() - started_cpu, 2),
        "peak_rss_bytes": 0,
    }
    return folder, made, cost


def _program(part: Part, folder: Path) -> manifest.ProgramInfo:
    """Copy a program into the bundle, and say everything about it."""
    settings, form, delegation = part.settings, part.form, part.lowered.delegation
    stem = "-".join(filter(None, (settings.backend.name, (settings.backend.soc or "").lower())))
    lowered, weights = part.entries["lower"].folder, []
    shutil.copyfile(lowered / "model.pte", folder / f"{stem}.pte")
    if (lowered / "model.ptd").is_file():
        weights.append(f"{stem}.ptd")
        shutil.copyfile(lowered / "model.ptd", folder / weights[0])
    stored = None
    if part.facts.stored is not None:
        stored = manifest.SourceQuantization(
            form=part.facts.stored, kept=part.quantized.kept, requantized=part.quantized.requantized
        )
    return manifest.ProgramInfo(
        file=f"{stem}.pte",
        weights=weights,
        backend=settings.backend.name,
        recipe=settings.recipe.name,
        source_quantization=stored,
        soc=list(settings.backend.socs),
        hexagon=delegation.hexagon,
        methods=list(form.methods),
        signature=form.signature,
        max_context=settings.model.max_context,
        prefill_chunk=settings.model.prefill_chunk,
        adapter_rank=settings.model.adapter_rank,
        goes_back=goes_back(part.facts.states),
        min_runtime=min_runtime(settings),
        qairt=delegation.qairt,
        notice=delegation.notice,
        executed=part.verified.executed and not form.twin,
        twin=part.verified.executed and form.twin,
        delegates=delegation.delegates,
        delegated_operators=delegation.delegated_operators,
        fallback_operators=delegation.fallback_operators,
        fallback_reasons=delegation.fallback_reasons,
        memory=_memory(part),
        quality=_quality(part),
        stages={name: manifest.StageCost.model_validate(entry.cost) for name, entry in part.entries.items()},
    )


def _quality(part: Part) -> manifest.Quality:
    made: manifest.Quality = part.form.quality(part.verified, part.settings)
    distance = part.entries.get("distance")
    if distance is None:
        return made
    return made.model_copy(update={"unadapted": manifest.Unadapted.model_validate(distance.figures)})


def _memory(part: Part) -> manifest.Memory:
    weights = part.lowered.bytes
    states = part.form.state_bytes(part.facts, part.settings.model.form, part.settings.backend.name)
    kv = sum(states.values())
    tables = table_bytes(part.facts, part.settings.recipe)
    resident = weights - tables + kv if part.measured is None else part.measured.program_rss_bytes
    return manifest.Memory(
        weights_bytes=weights,
        kv_cache_bytes=kv,
        states=states,
        table_bytes=tables,
        resident_bytes=resident,
        peak_bytes=resident + weights - tables,  # XNNPACK packs the weights while the file is still mapped
        min_device_ram_bytes=2 * (resident + weights - tables + RUNTIME_BYTES),  # an app gets about half of the RAM
    )


def _manifest(
    part: Part, source_files: Mapping[str, str], folder: Path, programs: Sequence[manifest.ProgramInfo]
) -> Manifest:
    """The bundle's manifest; `part` is the first program's, whose figures become the bundle's own."""
    settings, facts, first = part.settings, part.facts, programs[0]
    assert first.memory is not None
    assert first.quality is not None
    plain = first.model_copy(update={"memory": None, "quality": None, "stages": {}})
    return Manifest(
        what=_what(settings, facts, source_files, part.entries),
        files=manifest.describe_files(folder),
        programs=sorted([plain, *programs[1:]], key=lambda program: not program.soc),
        tokenizer=facts.manifest_tokenizer(),
        tasks={
            name: manifest.Task(**use.model_dump(mode="json", include=set(manifest.Task.model_fields)))
            for name, use in settings.task.use_cases.items()
        },
        memory=first.memory,
        quality=first.quality,
        stages=first.stages,
        **part.form.description(settings, facts, part.verified, part.measured, machine()),
    )


def _what(
    settings: Settings, facts: Facts, source_files: Mapping[str, str], entries: Mapping[str, cache.Entry]
) -> manifest.What:
    return manifest.What(
        task=settings.model.task,
        name=settings.name,
        family=facts.family,
        architecture=facts.architecture,
        parameters=facts.parameters,
        licence=facts.licence,
        source=manifest.Source(
            source=manifest.portable_source(settings.model.source),
            revision=settings.model.revision,
            files=dict(source_files),
        ),
        adaptation=_adaptations(entries),
        tools=cache.library_versions(LIBRARIES),
        settings=_portable(settings),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _adaptations(entries: Mapping[str, cache.Entry]) -> list[manifest.Adaptation]:
    found = [_adaptation(name, entries[name].figures) for name in ADAPTATIONS if name in entries]
    qat = entries["quantize"].figures.get("qat")
    return [*found, _adaptation("qat", qat)] if qat else found


def _adaptation(step: Any, figures: Mapping[str, Any]) -> manifest.Adaptation:
    plain = {name: value for name, value in figures.items() if name != "files"}
    if plain.get("trained_on"):
        plain["trained_on"] = manifest.portable_source(plain["trained_on"])
    return manifest.Adaptation(step=step, files=figures.get("files", {}), figures=plain)


def _portable(settings: Settings) -> dict[str, object]:
    """The settings without this machine's paths, and how it shares its memory."""
    plain = settings.model_dump(mode="json", exclude={"paths", "sweep"})
    places = [(plain["model"], "source"), (plain["model"], "adapter"), (plain["task"], "evaluation")]
    places.append((plain["verify"], "text"))
    for group, key in [*places, (plain["recipe"]["calibration"] or {"source": None}, "source")]:
        if group[key] is not None:
            group[key] = manifest.portable_source(group[key])
    return plain


def min_runtime(settings: Settings) -> str:
    """The oldest ExecuTorch that a program of these settings was seen to run on."""
    return MIN_RUNTIME if settings.backend.name == "xnnpack" else MIN_RUNTIME_OTHERS
