"""bundle: programs, tokenizer and manifest in one folder, published whole."""

from __future__ import annotations

import datetime
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from et_pipeline import cache, manifest
from et_pipeline.architecture import layer_windows
from et_pipeline.evaluation.embedding import judge_embeddings
from et_pipeline.evaluation.gate import judge
from et_pipeline.manifest import Manifest
from et_pipeline.models.facts import TOKENIZER, Facts, read_json, read_tokenizer
from et_pipeline.models.pooling import Pooling
from et_pipeline.plan import RUNTIME_BYTES, kv_cache_bytes
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import Settings

MIN_RUNTIME = "1.3.0"  # what XNNPACK's programs, with each option, were seen to run on (Android build 1.3.x)
MIN_RUNTIME_OTHERS = "1.5.1"  # what makes the programs of other backends; none was seen to run on an older one
LIBRARIES = ("torch", "torchao", "transformers", "executorch", "tokenizers", "et-pipeline")


def run(
    settings: Settings, source: Path, source_files: Mapping[str, str], entries: Mapping[str, cache.Entry]
) -> tuple[Path, Manifest, dict[str, float]]:
    """Judge the figures, write the manifest, publish the bundle under `paths.bundles`.

    A bundle that fails its gate is written too, marked as failed: its figures are what one needs then.

    Returns:
        The bundle's folder, its manifest, and the stage's cost.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    folder = settings.paths.bundles.expanduser().resolve() / settings.name
    lock = settings.paths.cache.expanduser().resolve() / "bundle" / cache.digest(str(folder))
    with cache.locked(lock):
        folder.parent.mkdir(parents=True, exist_ok=True)
        cache.remove_leftovers(folder)
        temporary = cache.temporary_for(folder)
        try:
            program = f"{settings.backend.name}.pte"
            shutil.copyfile(entries["lower"].folder / "model.pte", temporary / program)
            if settings.backend.external_weights:
                shutil.copyfile(entries["lower"].folder / "model.ptd", temporary / f"{settings.backend.name}.ptd")
            _copy_tokenizer(source, temporary, settings)
            made = _manifest(settings, source, source_files, entries, temporary, program)
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


def _manifest(
    settings: Settings,
    source: Path,
    source_files: Mapping[str, str],
    entries: Mapping[str, cache.Entry],
    folder: Path,
    program: str,
) -> Manifest:
    facts = Facts.read(entries["acquire"].folder)
    lowered, verified = entries["lower"].figures, entries["verify"].figures
    weights = lowered["bytes"]
    windows = layer_windows(read_json(source / "config.json"), facts.layers)
    kv = kv_cache_bytes(windows, facts.kv_heads, facts.head_dim, settings.model.form)
    embeds = facts.pooling is not None
    if embeds:
        kv = 0
    measured = entries["measure"].figures if "measure" in entries else None
    resident = measured["program_rss_bytes"] if measured else weights + kv
    executed = bool(verified["quantized"]) if "quantized" in verified else True
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
        programs=[
            manifest.ProgramInfo(
                file=program,
                weights=[f"{settings.backend.name}.ptd"] if settings.backend.external_weights else [],
                backend=settings.backend.name,
                methods=["prefill_forward", "kv_forward"] if settings.backend.prefill else ["forward"],
                signature="tokens_cache" if settings.backend.prefill else "tokens",
                max_context=settings.model.max_context,
                prefill_chunk=settings.model.prefill_chunk,
                min_runtime=min_runtime(settings),
                executed=executed and not settings.backend.prefill,
                twin=executed and settings.backend.prefill,
                soc=[settings.backend.soc] if settings.backend.soc else [],
                qairt=lowered["delegation"]["qairt"],
                delegates=lowered["delegation"]["delegates"],
                fallback_operators=lowered["delegation"]["fallback_operators"],
            )
        ],
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
        memory=manifest.Memory(
            weights_bytes=weights,
            kv_cache_bytes=kv,
            resident_bytes=resident,
            peak_bytes=resident + weights,  # XNNPACK packs the weights while the file is still mapped
            min_device_ram_bytes=2 * (resident + weights + RUNTIME_BYTES),  # an app gets about half of the RAM
        ),
        quality=_embedding_quality(settings, verified)
        if embeds
        else manifest.Quality(
            agreement=manifest.Comparison(quantized=verified["quantized"], original=verified["original"])
            if executed
            else None,
            tasks={name: manifest.TaskScore(**score) for name, score in verified["tasks"].items()},
            perplexity=manifest.Perplexity(**verified["perplexity"]) if verified["perplexity"]["original"] else None,
            gate=judge(verified, settings.recipe.gate),
        ),
        speed=[]
        if embeds or measured is None
        else [manifest.Speed(where=host(), threads=settings.measure.threads, **measured)],
        stages={name: manifest.StageCost.model_validate(entry.cost) for name, entry in entries.items()},
        samples=[] if embeds else [manifest.Sample(**sample) for sample in verified["samples"]],
    )


def _copy_tokenizer(source: Path, folder: Path, settings: Settings) -> None:
    """The checkpoint's own; of an embedding one that gives a text's ids as the program takes them."""
    if settings.model.task == "embedding":
        for_one_text(read_tokenizer(source), settings.model.max_context).save(str(folder / TOKENIZER))
    else:
        shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)


def _embedding(settings: Settings, facts: Facts, entries: Mapping[str, cache.Entry]) -> manifest.Embedding:
    pooling = facts.pooling or Pooling()
    speed = manifest.EmbeddingSpeed(where=host(), threads=settings.measure.threads, **entries["measure"].figures)
    return manifest.Embedding(
        dimension=facts.hidden_size,
        pooling=pooling.mode,
        normalised=pooling.normalised,
        max_tokens=settings.model.max_context,
        speed=[speed],
        samples=[manifest.Similarity(**each) for each in entries["verify"].figures["similarities"]],
    )


def _embedding_quality(settings: Settings, verified: Mapping[str, Any]) -> manifest.Quality:
    figures = verified["embedding"]
    agreement = manifest.EmbeddingComparison(quantized=figures["quantized"], original=figures["original"])
    return manifest.Quality(embedding=agreement, gate=judge_embeddings(figures, settings.recipe.gate))


def _portable(settings: Settings) -> dict[str, object]:
    """The settings without this machine's paths."""
    plain = settings.model_dump(mode="json", exclude={"paths"})
    plain["model"]["source"] = manifest.portable_source(settings.model.source)
    if settings.task.evaluation is not None:
        plain["task"]["evaluation"] = manifest.portable_source(settings.task.evaluation)
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
