"""bundle: programs, tokenizer and manifest in one folder, published whole."""

from __future__ import annotations

import datetime
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from et_pipeline import cache, forms, manifest
from et_pipeline.backends import Delegation
from et_pipeline.checkpoints.facts import TOKENIZER, Facts, read_tokenizer
from et_pipeline.evaluation.embedding import judge_embeddings
from et_pipeline.evaluation.gate import judge, witness
from et_pipeline.forecast import RUNTIME_BYTES
from et_pipeline.manifest import Manifest
from et_pipeline.models.pooling import Pooling
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import Settings

MIN_RUNTIME = "1.3.0"  # what XNNPACK's programs, with each option, were seen to run on (Android build 1.3.x)
MIN_RUNTIME_OTHERS = "1.5.1"  # what makes the programs of other backends; none was seen to run on an older one
LIBRARIES = ("torch", "torchao", "transformers", "executorch", "tokenizers", "et-pipeline")


Part = tuple[Settings, Mapping[str, cache.Entry]]
"""A program's settings, and the results of its stages."""


def run(
    parts: Sequence[Part], source: Path, source_files: Mapping[str, str]
) -> tuple[Path, Manifest, dict[str, float]]:
    """Judge the figures, write the manifest, publish the bundle under `paths.bundles`.

    A bundle that fails its gate is written too, marked as failed: its figures are what one needs then.

    Args:
        parts: of each program; the first is what the bundle's own figures tell of.
        source: the checkpoint.
        source_files: SHA-256 of its files by name.

    Returns:
        The bundle's folder, its manifest, and the stage's cost.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    settings = parts[0][0]
    folder = settings.paths.bundles.expanduser().resolve() / settings.name
    lock = settings.paths.cache.expanduser().resolve() / "bundle" / cache.digest(str(folder))
    with cache.locked(lock):
        folder.parent.mkdir(parents=True, exist_ok=True)
        cache.remove_leftovers(folder)
        temporary = cache.temporary_for(folder)
        try:
            programs = [_program(part, source, temporary) for part in parts]
            _copy_tokenizer(source, parts[0][1]["acquire"].folder, temporary, settings)
            made = _manifest(parts[0], source_files, temporary, programs)
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


def _program(part: Part, source: Path, folder: Path) -> manifest.ProgramInfo:
    """Copy a program into the bundle, and say everything about it."""
    settings, entries = part
    facts = Facts.read(entries["acquire"].folder)
    lowered, verified = entries["lower"].figures, entries["verify"].figures
    delegation = Delegation(**lowered["delegation"])
    form = forms.get(forms.choose(settings.model.task, settings.backend))
    executed = bool(verified["embedding"]["quantized"] if form.embeds else verified["quantized"])
    stem = "-".join(filter(None, (settings.backend.name, (settings.backend.soc or "").lower())))
    files = {suffix: f"{stem}.{suffix}" for suffix in ("pte", "ptd")}
    shutil.copyfile(entries["lower"].folder / "model.pte", folder / files["pte"])
    if settings.backend.external_weights:
        shutil.copyfile(entries["lower"].folder / "model.ptd", folder / files["ptd"])
    return manifest.ProgramInfo(
        file=files["pte"],
        weights=[files["ptd"]] if settings.backend.external_weights else [],
        backend=settings.backend.name,
        recipe=settings.recipe.name,
        source_quantization=None
        if facts.stored is None
        else manifest.SourceQuantization(
            form=facts.stored,
            **{name: manifest.Rounded(**each) for name, each in entries["quantize"].figures["requantized"].items()},
        ),
        soc=list(settings.backend.socs),
        hexagon=delegation.hexagon,
        methods=list(form.methods),
        signature=form.signature,
        max_context=settings.model.max_context,
        prefill_chunk=settings.model.prefill_chunk,
        min_runtime=min_runtime(settings),
        qairt=delegation.qairt,
        notice=delegation.notice,
        executed=executed and not form.twin,
        twin=executed and form.twin,
        delegates=delegation.delegates,
        delegated_operators=delegation.delegated_operators,
        fallback_operators=delegation.fallback_operators,
        fallback_reasons=delegation.fallback_reasons,
        memory=_memory(settings, facts, entries),
        quality=_embedding_quality(settings, verified)
        if form.embeds
        else manifest.Quality(
            agreement=manifest.Comparison(quantized=verified["quantized"], original=verified["original"])
            if executed
            else None,
            greedy=manifest.GreedyAgreement(**verified["greedy"]) if verified["greedy"] else None,
            tasks={name: manifest.TaskScore(**score) for name, score in verified["tasks"].items()},
            perplexity=manifest.Perplexity(**verified["perplexity"]) if verified["perplexity"]["original"] else None,
            text=_text_quality(settings, verified["text"]) if verified["text"] else None,
            witness=witness(verified["witness"]),
            gate=judge(verified, settings.recipe.gate),
        ),
        stages={name: manifest.StageCost.model_validate(entry.cost) for name, entry in entries.items()},
    )


def _memory(settings: Settings, facts: Facts, entries: Mapping[str, cache.Entry]) -> manifest.Memory:
    weights = entries["lower"].figures["bytes"]
    form = forms.get(forms.choose(settings.model.task, settings.backend))
    kv = form.kv_cache_bytes(facts, settings.model.form, settings.backend.name)
    resident = entries["measure"].figures["program_rss_bytes"] if "measure" in entries else weights + kv
    return manifest.Memory(
        weights_bytes=weights,
        kv_cache_bytes=kv,
        resident_bytes=resident,
        peak_bytes=resident + weights,  # XNNPACK packs the weights while the file is still mapped
        min_device_ram_bytes=2 * (resident + weights + RUNTIME_BYTES),  # an app gets about half of the RAM
    )


def _manifest(
    part: Part, source_files: Mapping[str, str], folder: Path, programs: Sequence[manifest.ProgramInfo]
) -> Manifest:
    """The bundle's manifest; `part` is the first program's, whose figures become the bundle's own."""
    settings, entries = part
    facts = Facts.read(entries["acquire"].folder)
    verified = entries["verify"].figures
    measured = entries["measure"].figures if "measure" in entries else None
    embeds, first = facts.pooling is not None, programs[0]
    assert first.memory is not None
    assert first.quality is not None
    plain = first.model_copy(update={"memory": None, "quality": None, "stages": {}})
    return Manifest(
        what=manifest.What(
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
            tools=cache.library_versions(LIBRARIES),
            settings=_portable(settings),
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        ),
        files=manifest.describe_files(folder),
        programs=sorted([plain, *programs[1:]], key=lambda program: not program.soc),
        tokenizer=facts.manifest_tokenizer(),
        chat=None if embeds else facts.manifest_chat(settings.task.system_prompt),
        embedding=_embedding(settings, facts, entries) if embeds else None,
        tasks={
            name: manifest.Task(
                title=use.title,
                template=use.template,
                max_new_tokens=use.max_new_tokens,
                choices={key: list(options) for key, options in use.choices.items()},
                disclaimer=use.disclaimer,
            )
            for name, use in settings.task.use_cases.items()
        },
        memory=first.memory,
        quality=first.quality,
        speed=[]
        if embeds or measured is None
        else [manifest.Speed(where=host(), threads=settings.measure.threads, **measured)],
        stages=first.stages,
        samples=[] if embeds else [manifest.Sample(**sample) for sample in verified["samples"]],
    )


def _copy_tokenizer(source: Path, acquired: Path, folder: Path, settings: Settings) -> None:
    """The one that phones read like the checkpoint's; of an embedding one that gives ids as the program takes them."""
    if settings.model.task == "embedding":
        for_one_text(read_tokenizer(source), settings.model.max_context).save(str(folder / TOKENIZER))
    else:
        shutil.copyfile(acquired / TOKENIZER, folder / TOKENIZER)


def _embedding(settings: Settings, facts: Facts, entries: Mapping[str, cache.Entry]) -> manifest.Embedding:
    pooling = facts.pooling or Pooling()
    measured = entries.get("measure")
    speed = []
    if measured is not None:
        speed = [manifest.EmbeddingSpeed(where=host(), threads=settings.measure.threads, **measured.figures)]
    return manifest.Embedding(
        dimension=facts.hidden_size,
        pooling=pooling.mode,
        normalised=pooling.normalised,
        max_tokens=settings.model.max_context,
        speed=speed,
        samples=[manifest.Similarity(**each) for each in entries["verify"].figures["similarities"]],
    )


def _embedding_quality(settings: Settings, verified: Mapping[str, Any]) -> manifest.Quality:
    figures = verified["embedding"]
    agreement = None
    if figures["quantized"] is not None:
        agreement = manifest.EmbeddingComparison(quantized=figures["quantized"], original=figures["original"])
    gate = judge_embeddings(figures, verified["witness"], settings.recipe.gate)
    return manifest.Quality(embedding=agreement, witness=witness(verified["witness"]), gate=gate)


def _text_quality(settings: Settings, figures: Mapping[str, Any]) -> manifest.TextQuality:
    verify = settings.verify
    source = manifest.portable_source(verify.text or "")
    return manifest.TextQuality(source=source, window=verify.window, stride=verify.stride, **figures)


def _portable(settings: Settings) -> dict[str, object]:
    """The settings without this machine's paths."""
    plain = settings.model_dump(mode="json", exclude={"paths"})
    places = [(plain["model"], "source"), (plain["task"], "evaluation"), (plain["verify"], "text")]
    for group, key in [*places, (plain["recipe"]["calibration"] or {"source": None}, "source")]:
        if group[key] is not None:
            group[key] = manifest.portable_source(group[key])
    return plain


def min_runtime(settings: Settings) -> str:
    """The oldest ExecuTorch that a program of these settings was seen to run on."""
    return MIN_RUNTIME if settings.backend.name == "xnnpack" else MIN_RUNTIME_OTHERS


def host() -> str:
    """The processor and the system that the figures come from, without the machine's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    return f"{processor}, {len(models) or '?'} cores, {platform.system()}"
