"""A bundle in tables, as `et-bundle inspect` prints them and the page of bundles holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from et_pipeline.manifest import (
    Agreement,
    Embedding,
    EmbeddingAgreement,
    EmbeddingSpeed,
    Gate,
    Manifest,
    Percentiles,
    Quality,
    Speed,
    TextQuality,
    TextScore,
)
from et_pipeline.report.words import down, outside, size, vector, within

Titled = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table: title, columns, rows."""


def tables(manifest: Manifest) -> Iterator[Titled]:
    """All that is said of a bundle; some may have no rows."""
    yield _model(manifest)
    yield _programs(manifest)
    yield _outside_the_delegates(manifest)
    yield _needs(manifest)
    for info in manifest.programs:
        several = f" of {info.file}" if len(manifest.programs) > 1 else ""
        for title, columns, rows in _quality_tables(manifest.quality_of(info)):
            yield title.replace(":", f"{several}:") if ":" in title else title + several, columns, rows
    if manifest.embedding:
        yield _embedding(manifest.embedding)
    yield speed_table(manifest.embedding.speed if manifest.embedding else manifest.speed)
    yield _tasks(manifest)


def _model(manifest: Manifest) -> Titled:
    what, memory = manifest.what, manifest.memory
    total = sum(file.size for file in manifest.files.values())
    revision = f" at {what.source.revision}" if what.source.revision else ""
    stay = f" of which {size(memory.table_bytes)} stay in the file" if memory.table_bytes else ""
    rows = [
        ("model", f"{what.architecture} ({what.family}), {_count(what.parameters)} parameters"),
        ("source", what.source.source + revision),
        ("licence", what.licence or "unknown"),
        ("made", (what.created or "(no date)") + " with " + ", ".join(f"{k} {v}" for k, v in what.tools.items())),
        ("size", f"{size(total)} in {len(manifest.files)} files"),
        (
            "memory",
            f"{size(memory.resident_bytes)} while answering, {size(memory.peak_bytes)} at most; "
            f"weights {size(memory.weights_bytes)}{stay}, KV cache {size(memory.kv_cache_bytes)}",
        ),
        ("phone", f"{size(memory.min_device_ram_bytes)} of RAM or more"),
    ]
    return what.name, ("", ""), rows


def _programs(manifest: Manifest) -> Titled:
    columns = ("file", "size", "backend", "recipe", "chips", "context", "chunk", "delegates", "outside", "where made")
    rows = [
        (
            info.file,
            size(manifest.files[info.file].size),
            info.backend,
            info.recipe or "",
            ", ".join(info.soc) + (f" ({info.hexagon})" if info.hexagon else "") or "any",
            str(info.max_context),
            str(info.prefill_chunk),
            str(info.delegates),
            str(sum(info.fallback_operators.values())),
            "executed" if info.executed else "twin executed" if info.twin else "not executed",
            "passed" if manifest.quality_of(info).gate.passed else "FAILED",
        )
        for info in manifest.programs
    ]
    return "Programs", (*columns, "gate"), rows


def _outside_the_delegates(manifest: Manifest) -> Titled:
    rows = [(info.file, line) for info in manifest.programs for line in outside(info)]
    return "Outside the delegates", ("file", "why and what"), rows


def _needs(manifest: Manifest) -> Titled:
    needs: dict[str, list[str]] = {}
    for info in manifest.programs:
        if info.qairt:
            needs.setdefault(f"QAIRT {info.qairt} or newer. {info.notice or ''}", []).append(info.file)
    return "Needs", ("", ""), [("\n".join(files), text) for text, files in needs.items()]


def _embedding(made: Embedding) -> Titled:
    rows = [("gives", vector(made)), ("takes", f"texts of up to {made.max_tokens} tokens")]
    for name, text in made.prompts.items():
        usual = ", where nothing is said" if name == made.default_prompt else ""
        rows.append((f"prompt {name}", f"{text!r} before a text{usual}" if text else f"nothing before a text{usual}"))
    return "Embedding", ("", ""), rows


def _tasks(manifest: Manifest) -> Titled:
    rows = [
        (
            name,
            task.title,
            "; ".join(f"{key}: {', '.join(options)}" for key, options in task.choices.items()),
            f"{task.max_new_tokens} tokens",
        )
        for name, task in manifest.tasks.items()
    ]
    return "Tasks", ("name", "title", "choices", "longest answer"), rows


def _quality_tables(quality: Quality) -> Iterator[Titled]:
    """What is known of one program."""
    yield (
        "Agreement of the program's logits",
        ("against", "fed", "tokens", "cosine", "lowest", "max diff", "KL", "top-1"),
        [
            (against, way, str(figures.positions), *_nearness(figures), _kl(figures), f"{figures.top1:.1%}")
            for against, ways in quality.agreement or ()
            for way, figures in ways
        ],
    )
    yield (
        "Agreement of the program's embeddings",
        ("against", "texts", "cosine", "lowest", "max diff", "rank correlation"),
        [
            (against, str(figures.texts), *_nearness(figures), f"{figures.rank_correlation:.6f}")
            for against, figures in quality.embedding or ()
        ],
    )
    if quality.text:
        yield _text(quality.text)
    yield _scores(quality)
    yield _gate(quality.gate)


def _nearness(figures: Agreement | EmbeddingAgreement) -> tuple[str, str, str]:
    return f"{figures.cosine:.6f}", f"{figures.min_cosine:.6f}", f"{figures.max_abs_diff:.3g}"


def _kl(figures: Agreement | TextScore) -> str:
    return f"{figures.kl:.2g}{within(figures.kl_interval)}"


def _text(text: TextQuality) -> Titled:
    what = f"{text.source}, {text.tokens} tokens, window {text.window}, stride {text.stride}"
    rows = [("original", f"{text.original:.3f}", "", "", what)]
    for name, found in (("quantized eager", text.quantized), ("program", text.deployed)):
        if found is not None:
            rows.append((name, f"{found.perplexity:.3f}", _kl(found), f"{found.top1:.1%}", ""))
    return "Quality on a text", ("model", "perplexity", "KL", "top-1", "text"), rows


def _scores(quality: Quality) -> Titled:
    rows = [
        (task, f"{score.original:.1f} %", f"{score.deployed:.1f} %", str(score.items))
        for task, score in quality.tasks.items()
    ]
    if quality.perplexity:
        rows.append(("perplexity", f"{quality.perplexity.original:.2f}", f"{quality.perplexity.deployed:.2f}", ""))
    if quality.greedy:
        equal = f"{quality.greedy.equal} of {quality.greedy.prompts} answers equal"
        rows.append(("greedy answers", "", f"{equal}, {down(100 * quality.greedy.agreement, 1)} % of their tokens", ""))
    return "Quality", ("task", "original", "deployed", "items"), rows


def _gate(gate: Gate) -> Titled:
    rows = [
        (
            check.name,
            f"{check.value:.4g}{within(check.interval)}",
            f"{check.threshold:.4g}",
            "ok" if check.passed else "FAILED",
        )
        for check in gate.checks
    ]
    return f"Gate: {'passed' if gate.passed else 'FAILED'}", ("check", "value", "threshold", ""), rows


def _count(number: int) -> str:
    for unit, scale in (("billion", 10**9), ("million", 10**6)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return str(number)


def speed_table(speeds: Iterable[Speed | EmbeddingSpeed]) -> Titled:
    """Measurements of one kind."""
    rows = [_cells(speed) for speed in speeds]
    columns = tuple(rows[0]) if rows else ()
    return "Speed: median (10th to 90th percentile)", columns, [tuple(row.values()) for row in rows]


def _cells(speed: Speed | EmbeddingSpeed) -> dict[str, str]:
    if isinstance(speed, EmbeddingSpeed):
        figures = {"text ms": _spread(speed.text_ms), "tokens": str(speed.tokens)}
    else:
        figures = {
            "first token ms": _spread(speed.ttft_ms),
            "prefill tok/s": _spread(speed.prefill_tok_s),
            "decode tok/s": _spread(speed.decode_tok_s),
            "tokens": f"{speed.prompt_tokens} + {speed.decode_tokens}",
        }
    return {
        "where": speed.where,
        "threads": str(speed.threads),
        "load ms": _spread(speed.load_ms),
        **figures,
        "memory": size(speed.program_rss_bytes),
    }


def _spread(figure: Percentiles) -> str:
    return f"{figure.p50:.1f} ({figure.p10:.1f} to {figure.p90:.1f})"
