"""The closing tables of a run, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from et_pipeline.forecast import summary
from et_pipeline.manifest import Manifest, Quality, TextQuality
from et_pipeline.report.jobs import Outcome
from et_pipeline.report.jobs import table as jobs_table
from et_pipeline.report.plan_tables import forecast, plan_table, two_columns
from et_pipeline.report.words import (
    adapted,
    check_sentence,
    down,
    imported,
    size,
    vector,
    within,
    witness_sentence,
)
from et_pipeline.survey import Survey

if TYPE_CHECKING:
    from et_pipeline.pipeline import Made, Result
    from et_pipeline.pipeline.search import Trial

SIDE_BY_SIDE = 6  # bundles of which each has a column


def as_json(done: Result | Survey) -> dict[str, Any]:
    """What a run or a plan has to say, as a JSON document."""
    if isinstance(done, Survey):
        chosen = summary(done.chosen) if done.chosen else {}
        return {**chosen, f"{done.over}s": [summary(each) for each in done.plans]}
    document: dict[str, Any] = {
        "bundle": str(done.bundle) if done.bundle else None,
        **_made(done.programs[0]),
    }
    if len(done.programs) > 1:
        document["programs"] = [_made(each) for each in done.programs]
    if done.manifest is not None:
        document["manifest"] = done.manifest.model_dump(mode="json")
    return document


def _made(program: Made) -> dict[str, Any]:
    return {
        "reused": program.reused,
        "trials": [
            {**each._asdict(), "checks": [check.model_dump(mode="json") for check in each.checks]}
            for each in program.trials
        ],
        "stages": {name: {**entry.cost, "folder": str(entry.folder)} for name, entry in program.entries.items()},
    }


def show(done: Sequence[Result | Survey], jobs: Sequence[Outcome] = (), console: Console | None = None) -> None:
    """Print the closing tables; several bundles or plans stand side by side, and above them the jobs of a sweep."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    surveys = [each for each in done if isinstance(each, Survey)]
    results = [each for each in done if not isinstance(each, Survey)]
    bundles = [(each, each.manifest) for each in results if each.manifest is not None]
    if len(surveys) == 1:
        console.print(forecast(surveys[0]))
    elif surveys:  # a sweep: what was asked for, without what it could be compared with
        plans = [plan for each in surveys for plan in ([each.chosen] if each.chosen else each.plans)]
        console.print(plan_table(plans, f"Plan: {', '.join(dict.fromkeys(plan.model for plan in plans))}"))
    if len(bundles) == 1:
        result, manifest = bundles[0]
        reused = result.programs[0].reused if len(result.programs) == 1 else ()
        for made in result.programs:
            if made.trials:
                console.print(searched(made.trials, made.settings.recipe.name))
        console.print(closing(manifest, str(result.bundle), reused))
    elif 1 < len(bundles) <= SIDE_BY_SIDE:
        console.print(comparison([manifest for _, manifest in bundles]))
    if len(jobs) > 1 and not surveys:
        console.print(jobs_table(jobs))
    for result in results:
        for program in result.programs if result.manifest is None else ():
            last, entry = list(program.entries.items())[-1]
            console.print(f"{last} is in {entry.folder}", highlight=False, soft_wrap=True)


def closing(manifest: Manifest, where: str, reused: Sequence[str] = ()) -> RenderableType:
    """One bundle: size, quality, speed, memory, verdict, sample answers, and where it is."""
    table = two_columns(manifest.what.name)
    for name, value in closing_rows(manifest).items():
        table.add_row(name, value)
    answers = two_columns("Sample similarities" if manifest.embedding else "Sample answers")
    for pair in manifest.embedding.samples if manifest.embedding else ():
        answers.add_row(f"{pair.cosine:.2f}", Text(f"{pair.first} | {pair.second}"))
    for sample in manifest.samples:
        answers.add_row(sample.task.replace("_", " "), Text(sample.prompt, style="dim"))
        answers.add_row("", Text(sample.answer))
    several: list[RenderableType] = ["", programs_table(manifest)] if len(manifest.programs) > 1 else []
    ending = f"\nBundle: {where}" + (f"\nReused: {', '.join(reused)}" if reused else "")
    return Group("", table, *several, "", answers, Text(ending, overflow="fold"))


def programs_table(manifest: Manifest) -> Table:
    """The programs of a bundle, a row each."""
    table = Table(title="Programs", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("for", "recipe", "size", "delegates", "outside", "quantized: cosine", "original: top-1", "answers"):
        table.add_column(column, no_wrap=True)
    table.add_column("verdict")
    for program in manifest.programs:
        quality = manifest.quality_of(program)
        table.add_row(
            ", ".join(program.soc) or program.backend,
            program.recipe,
            size(manifest.memory_of(program).weights_bytes),
            str(program.delegates),
            str(sum(program.fallback_operators.values())),
            *_agreement_cells(quality),
            Text("PASSED", style="green") if quality.gate.passed else Text("FAILED", style="bold red"),
        )
    return table


def searched(trials: Sequence[Trial], chosen: str) -> Table:
    """What `recipe=auto` tried."""
    table = Table(title=f"recipe=auto chose {chosen}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("tried", ".pte", "KL to original in nats [95 %]", "perplexity ratio", ""):
        table.add_column(name)
    for each in trials:
        figures = [f"{check.value:.4f}{within(check.interval)}" for check in each.checks]
        if each.program is False:
            verdict = Text("its program fails", style="red")
        else:
            verdict = Text("passes", style="green") if each.passed else Text("too far", style="red")
        table.add_row(each.words, size(each.bytes), *figures, *[""] * (2 - len(figures)), verdict)
    return table


def _agreement_cells(quality: Quality) -> tuple[str, str, str]:
    if quality.embedding:
        return down(quality.embedding.quantized.min_cosine), "", ""
    if quality.agreement is None:
        return "not executed", "", ""
    lowest = min(way.cosine for _, way in quality.agreement.quantized)
    top1 = f"{down(100 * quality.agreement.original.token_by_token.top1, 2)} %"
    greedy = quality.greedy
    return down(lowest), top1, f"{greedy.equal} of {greedy.prompts} equal" if greedy else ""


def comparison(manifests: Sequence[Manifest]) -> RenderableType:
    """Several bundles, a column each."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    rows = [closing_rows(manifest) for manifest in manifests]
    for manifest in manifests:
        table.add_column(manifest.what.settings["recipe"]["name"])
    for name in rows[0]:
        table.add_row(name, *(row.get(name, Text("")) for row in rows))
    return table


def markdown(rows: Sequence[Sequence[Any]]) -> str:
    """A table for the pages; the first row is its head."""
    head = "| " + " | ".join(rows[0]) + " |\n|---|" + "---:|" * (len(rows[0]) - 1) + "\n"
    return head + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows[1:])


def closing_rows(manifest: Manifest) -> dict[str, Text]:
    """What there is to say of a bundle, by what it is."""
    quality, program = manifest.quality, manifest.main
    weights, fp16 = manifest.memory.weights_bytes, 2 * manifest.what.parameters
    fallback = sum(program.fallback_operators.values())
    why = " (et-bundle inspect says why)" if program.fallback_reasons else ""
    rows = {
        "size": f"{size(weights)}, {100 * weights / fp16:.0f} % of fp16 ({size(fp16)})",
        "program": f"{program.backend}, {program.delegates} delegates, {fallback} operators outside{why}, "
        f"context {program.max_context}",
    }
    if manifest.what.adaptation:
        rows["adapted"] = "\n".join(map(adapted, manifest.what.adaptation))
    if program.source_quantization is not None:
        rows["source weights"] = imported(program.source_quantization)
    if quality.witness is not None:
        rows["original"] = witness_sentence(quality.witness)
    if quality.agreement is not None:
        quantized, original = quality.agreement.quantized, quality.agreement.original.token_by_token
        ways = [quantized.one_piece, quantized.chunked, quantized.token_by_token]
        rows["vs quantized eager"] = (
            f"cosine {down(min(way.cosine for way in ways))}, top-1 {down(100 * min(way.top1 for way in ways), 2)} %"
            " (worst of one piece, chunks, token by token)"
        )
        rows["vs original"] = (
            f"cosine {down(original.cosine)}, top-1 {down(100 * original.top1, 2)} %, "
            f"KL {original.kl:.4f} nats{within(original.kl_interval)}"
        )
    if quality.unadapted is not None:
        before = quality.unadapted.agreement
        rows["vs unadapted"] = (
            f"top-1 {down(100 * before.top1, 2)} %, KL {before.kl:.4f} nats{within(before.kl_interval)}"
        )
    if quality.perplexity is not None:
        deployed, theirs = quality.perplexity.deployed, quality.perplexity.original
        ratio = f"ratio {deployed / theirs:.4f}{within(quality.perplexity.ratio_interval)}"
        rows["perplexity"] = f"{deployed:.3f} of the original's own answers (original {theirs:.3f}), {ratio}"
    if quality.text is not None:
        rows["on text"] = _on_text(quality.text)
    if quality.greedy is not None:
        rows["greedy answers"] = (
            f"{quality.greedy.equal} of {quality.greedy.prompts} equal to the original's, "
            f"{down(100 * quality.greedy.agreement, 1)} % of {quality.greedy.tokens} tokens before a difference"
        )
    if quality.tasks:
        rows["task accuracy"] = "\n".join(
            f"{name.replace('_', ' ')} {score.deployed:.0f} % (original {score.original:.0f} %)"
            for name, score in quality.tasks.items()
        )
    rows |= _embedding_rows(manifest) if manifest.embedding else _speed_rows(manifest)
    texts = {name: Text(value) for name, value in rows.items()}
    failed = [check for check in quality.gate.checks if not check.passed]
    if failed:
        texts["verdict"] = Text("FAILED: " + "; ".join(map(check_sentence, failed)), style="bold red")
    else:
        texts["verdict"] = Text(f"PASSED, all {len(quality.gate.checks)} checks of the gate", style="bold green")
    return texts


def _on_text(text: TextQuality) -> str:
    """A line for the text and one for each model."""
    lines = [f"{text.source}: {text.tokens:,} tokens, window {text.window}, stride {text.stride}"]
    lines.append(f"original: perplexity {text.original:.3f}")
    scores = {"quantized eager": text.quantized, "program": text.deployed}
    lines += [
        f"{name}: perplexity {score.perplexity:.3f}, top-1 {down(100 * score.top1, 2)} %, KL {score.kl:.4f} nats"
        f"{within(score.kl_interval)}"
        for name, score in scores.items()
        if score is not None
    ]
    return "\n".join(lines)


def _execution(manifest: Manifest) -> dict[str, str]:
    """Where a program runs whose speed was not measured."""
    program = manifest.main
    ran = "executed here, where its speed says nothing"
    where = ran if program.executed else "not executed: this host cannot"
    where = f"a twin without shared weights was {ran}" if program.twin else where
    chips = f"for {', '.join(program.soc)}, " if program.soc else ""
    return {"execution": f"{chips}{where}{f', QAIRT {program.qairt} or newer' if program.qairt else ''}"}


def _speed_rows(manifest: Manifest) -> dict[str, str]:
    if not manifest.speed:
        return _execution(manifest)
    speed = manifest.speed[0]
    return {
        "speed on this host": f"TTFT {speed.ttft_ms.p50:.1f} ms, prefill {speed.prefill_tok_s.p50:,.0f} tok/s, "
        f"decode {speed.decode_tok_s.p50:,.0f} tok/s ({speed.prompt_tokens} + {speed.decode_tokens} tokens, "
        f"{speed.threads} threads, load {speed.load_ms.p50:.0f} ms)",
        "memory": f"{size(manifest.memory.resident_bytes)} resident for the program, "
        f"{size(manifest.memory.kv_cache_bytes)} of it KV cache",
    }


def _embedding_rows(manifest: Manifest) -> dict[str, str]:
    embedding, agreement, rows = manifest.embedding, manifest.quality.embedding, {}
    if agreement is not None:
        quantized, original = agreement.quantized, agreement.original
        rows["vs quantized eager"] = f"cosine {down(quantized.cosine)}, lowest {down(quantized.min_cosine)}"
        rows["vs original"] = (
            f"cosine {down(original.cosine)}, lowest {down(original.min_cosine)}, rank correlation of similarities "
            f"{down(original.rank_correlation)} ({original.texts} texts)"
        )
    if embedding is not None:
        rows["embedding"] = vector(embedding)
        if not embedding.speed:
            rows |= _execution(manifest)
        for speed in embedding.speed[:1]:
            rows["speed on this host"] = (
                f"{speed.text_ms.p50:.1f} ms for a text of {speed.tokens} tokens ({speed.threads} threads, "
                f"load {speed.load_ms.p50:.0f} ms)"
            )
    return rows | {"memory": f"{size(manifest.memory.resident_bytes)} resident for the program"}
