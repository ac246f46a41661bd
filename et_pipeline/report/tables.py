"""The closing tables of a run, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from et_pipeline.manifest import Check, Manifest
from et_pipeline.pipeline import Result
from et_pipeline.plan import Plan


def as_json(done: Result | Plan) -> dict[str, Any]:
    """What a run or a plan has to say, as a JSON document."""
    if isinstance(done, Plan):
        return {**done.model_dump(mode="json"), "fits": done.fits}
    document: dict[str, Any] = {
        "bundle": str(done.bundle) if done.bundle else None,
        "reused": done.reused,
        "stages": {name: {**entry.cost, "folder": str(entry.folder)} for name, entry in done.entries.items()},
    }
    if done.manifest is not None:
        document["manifest"] = done.manifest.model_dump(mode="json")
    return document


def show(done: Sequence[Result | Plan], console: Console | None = None) -> None:
    """Print the closing tables; several bundles or plans stand side by side."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    plans = [each for each in done if isinstance(each, Plan)]
    results = [each for each in done if isinstance(each, Result)]
    bundles = [(each, each.manifest) for each in results if each.manifest is not None]
    if plans:
        console.print(plan_table(plans))
    if len(bundles) == 1:
        result, manifest = bundles[0]
        console.print(closing(manifest, str(result.bundle), result.reused))
    elif bundles:
        console.print(comparison([manifest for _, manifest in bundles]))
    for result in results:
        if result.manifest is None:
            last = list(result.entries)[-1]
            console.print(f"{last} is in {result.entries[last].folder}", highlight=False, soft_wrap=True)


def closing(manifest: Manifest, where: str, reused: Sequence[str] = ()) -> RenderableType:
    """One bundle: size, quality, speed, memory, verdict, sample answers, and where it is."""
    table = _two_columns(manifest.what.name)
    for name, value in _rows(manifest).items():
        table.add_row(name, value)
    answers = _two_columns("Sample answers")
    for sample in manifest.samples:
        answers.add_row(sample.task.replace("_", " "), Text(sample.prompt, style="dim"))
        answers.add_row("", Text(sample.answer))
    ending = f"\nBundle: {where}" + (f"\nReused: {', '.join(reused)}" if reused else "")
    return Group("", table, "", answers, Text(ending, overflow="fold"))


def _two_columns(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def comparison(manifests: Sequence[Manifest]) -> RenderableType:
    """Several bundles, a column each."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    rows = [_rows(manifest) for manifest in manifests]
    for manifest in manifests:
        table.add_column(manifest.what.settings["recipe"]["name"])
    for name in rows[0]:
        table.add_row(name, *(row.get(name, Text("")) for row in rows))
    return table


def plan_table(plans: Sequence[Plan]) -> RenderableType:
    """Forecasts, a row each."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"Plan: {plans[0].model}", title_justify="left")
    for name in ("recipe", "parameters", ".pte", "of fp16", "KV cache", "app memory", "device", "fits", "decode tok/s"):
        table.add_column(name, justify="left" if name in ("recipe", "device") else "right")
    for each in plans:
        table.add_row(
            each.recipe,
            f"{each.parameters / 1e6:.1f} M",
            size(each.pte_bytes),
            f"{100 * each.pte_bytes / each.fp16_bytes:.0f} %",
            size(each.kv_cache_bytes),
            size(each.resident_bytes),
            each.device,
            Text("yes", style="green") if each.fits else Text("no", style="red"),
            f"≤ {each.decode_tok_s:,.0f}",
        )
    return table


def check_sentence(check: Check) -> str:
    """A check of the gate in words."""
    return f"{check.name} is {check.value:.4g}, threshold {check.threshold:.4g}"


def size(count: float) -> str:
    """Bytes for people: decimal units, as in shops and on phones."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _rows(manifest: Manifest) -> dict[str, Text]:
    quality, speed, program = manifest.quality, manifest.speed[0], manifest.programs[0]
    weights, fp16 = manifest.memory.weights_bytes, 2 * manifest.what.parameters
    fallback = sum(program.fallback_operators.values())
    rows = {
        "size": f"{size(weights)}, {100 * weights / fp16:.0f} % of fp16 ({size(fp16)})",
        "program": f"{program.backend}, {program.delegates} delegates, {fallback} operators outside, "
        f"context {program.max_context}",
    }
    if quality.agreement is not None:
        quantized, original = quality.agreement.quantized, quality.agreement.original.token_by_token
        ways = [quantized.one_piece, quantized.chunked, quantized.token_by_token]
        rows["vs quantized eager"] = (
            f"cosine {_down(min(way.cosine for way in ways))}, top-1 {_down(100 * min(way.top1 for way in ways), 2)} %"
            " (worst of one piece, chunks, token by token)"
        )
        rows["vs original"] = (
            f"cosine {_down(original.cosine)}, top-1 {_down(100 * original.top1, 2)} %, KL {original.kl:.4f} nats"
        )
    if quality.perplexity is not None:
        rows["perplexity"] = f"{quality.perplexity.deployed:.3f} (original {quality.perplexity.original:.3f})"
    if quality.tasks:
        rows["task accuracy"] = "\n".join(
            f"{name.replace('_', ' ')} {score.deployed:.0f} % (original {score.original:.0f} %)"
            for name, score in quality.tasks.items()
        )
    rows |= {
        "speed on this host": f"TTFT {speed.ttft_ms.p50:.1f} ms, prefill {speed.prefill_tok_s.p50:,.0f} tok/s, "
        f"decode {speed.decode_tok_s.p50:,.0f} tok/s ({speed.prompt_tokens} + {speed.decode_tokens} tokens, "
        f"{speed.threads} threads, load {speed.load_ms.p50:.0f} ms)",
        "memory": f"{size(manifest.memory.resident_bytes)} resident for the program, "
        f"{size(manifest.memory.kv_cache_bytes)} of it KV cache",
    }
    texts = {name: Text(value) for name, value in rows.items()}
    failed = [check for check in quality.gate.checks if not check.passed]
    if failed:
        texts["verdict"] = Text("FAILED: " + "; ".join(map(check_sentence, failed)), style="bold red")
    else:
        texts["verdict"] = Text(f"PASSED, all {len(quality.gate.checks)} checks of the gate", style="bold green")
    return texts


def _down(value: float, digits: int = 5) -> str:
    """Round down: 0.99999 must not read as 1."""
    factor = 10**digits
    return f"{int(value * factor) / factor:.{digits}f}"
