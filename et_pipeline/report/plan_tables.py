"""The tables of `mode=plan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from et_pipeline.forecast import BANDWIDTH_SHARE, PER_CYCLE, Plan
from et_pipeline.report.words import size
from et_pipeline.survey import Survey


def forecast(survey: Survey) -> RenderableType:
    """One plan in full, if one was asked for, and the table that compares it."""
    first = survey.chosen or survey.plans[0]
    rows = _model_rows(first)
    if survey.chosen is None:
        title, other = f"{first.model}, {first.recipe}", f"{first.recipe} on every device"
    else:
        title, other = f"{first.model}, {first.recipe}, on {first.device}", f"Every recipe on {first.device}"
        rows |= _device_rows(first)
    table = two_columns(f"Plan: {title}")
    for name, value in rows.items():
        table.add_row(name, value)
    caveat = _TEXT_CAVEAT if first.embeds else _CAVEAT
    return Group("", table, "", plan_table(survey.plans, other), "", Text(caveat, style="dim"))


_CAVEAT = (
    "All figures are forecasts from shapes; none was measured on the device. Decode: "
    f"{BANDWIDTH_SHARE:.0%} of the memory bandwidth and a fixed time per layer, or, where that takes longer, the "
    f"instructions that an arm64 core was seen to execute, {PER_CYCLE:.0f} a cycle. First token (TTFT): the device's "
    "prefill_gops, whose source says how far to trust it. App memory: .pte, KV cache and 0.5 GB around them."
)


_TEXT_CAVEAT = (
    "All figures are forecasts from shapes; none was measured on the device. Time per text: the device's prefill_gops, "
    "whose source says how far to trust it. App memory: .pte and 0.5 GB around it."
)


def plan_table(plans: Sequence[Plan], title: str) -> RenderableType:
    """Forecasts, a row each: what differs by model or recipe where that differs, and what differs by device."""
    named = [key for key in ("model", "recipe", "device") if len({getattr(plan, key) for plan in plans}) > 1]
    named = named or ["recipe"]
    prompts = sorted({plan.prompt_tokens for plan in plans})
    columns: dict[str, Callable[[Plan], str | Text]] = {name: attrgetter(name) for name in named}
    if named != ["device"]:
        columns |= {
            ".pte": lambda plan: size(plan.pte_bytes),
            "of fp16": lambda plan: f"{100 * plan.pte_bytes / plan.fp16_bytes:.0f} %",
            "KV cache": lambda plan: size(plan.kv_cache_bytes),
            "app memory": lambda plan: size(plan.resident_bytes),
        }
    if "device" in named:
        columns |= {"RAM": lambda plan: size(plan.ram_bytes), "per app": lambda plan: size(plan.limit_bytes)}
    columns["fits"] = verdict
    if any(plan.embeds for plan in plans):
        columns.pop("KV cache", None)
        columns[f"text of {prompts[0]}" if len(prompts) == 1 else "text"] = lambda plan: _seconds(plan.ttft_s)
    else:
        columns |= _answer_columns(prompts)
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in (*named, "fits") else "right", no_wrap=name not in named)
    for plan in plans:
        table.add_row(*(cell(plan) for cell in columns.values()))
    return table


def _answer_columns(prompts: Sequence[int]) -> dict[str, Callable[[Plan], str | Text]]:
    return {
        "roofline": lambda plan: _speed(plan.roofline_tok_s),
        "decode tok/s": lambda plan: _speed(plan.decode_tok_s),
        f"TTFT {prompts[0]}" if len(prompts) == 1 else "TTFT": lambda plan: _seconds(plan.ttft_s),
    }


def verdict(plan: Plan) -> Text:
    """Whether a model fits: the app's limit is the first thing that it meets, the phone's memory the second."""
    if plan.fits:
        return Text("yes", style="green")
    return Text("over app limit" if plan.fits_phone else "no", style="red")


def _model_rows(plan: Plan) -> dict[str, Text]:
    """What does not depend on the device."""
    contexts = ", ".join(f"{size(count)} at {context}" for context, count in plan.kv_by_context.items())
    here = f" (here: {size(plan.host_bytes)})" if plan.host_bytes else ""
    kind = "fp32" if plan.embeds and plan.download_bytes > plan.fp16_bytes else "bf16"
    rows = {
        "parameters": f"{plan.parameters:,} ({plan.family}{f', {plan.pruned}' if plan.pruned else ''})",
        "download": f"{size(plan.download_bytes)} ({kind})" if plan.download_bytes else "none",
        "export": f"about {_minutes(plan.export_cpu_s)} of CPU time, {size(plan.export_peak_bytes)} of memory{here}",
        ".pte": f"{size(plan.pte_bytes)}, {100 * plan.pte_bytes / plan.fp16_bytes:.0f} % of fp16 "
        f"({size(plan.fp16_bytes)})",
        "KV cache": contexts,
        "app memory": f"{size(plan.resident_bytes)} at a context of {plan.max_context}",
    }
    if plan.table_bytes:
        rows["app memory"] += f", without {size(plan.table_bytes)} of per-layer embeddings, which stay in the file"
    if plan.embeds:
        del rows["KV cache"]
        rows["app memory"] = f"{size(plan.resident_bytes)} for texts of up to {plan.max_context} tokens"
    return {name: Text(value) for name, value in rows.items()}


def _device_rows(plan: Plan) -> dict[str, Text]:
    fits = verdict(plan)
    fits.append(f": {size(plan.resident_bytes)} of {size(plan.limit_bytes)} per app, {size(plan.ram_bytes)} RAM", "")
    if plan.embeds:
        rate = f"{plan.prompt_tokens} tokens in {_seconds(plan.ttft_s)}, {_speed(plan.pace)} such texts per second"
        return {"fits": fits, "text": Text(rate)}
    decode = (
        f"{_speed(plan.decode_tok_s)} tok/s, {_speed(plan.decode_full_tok_s)} with a full context "
        f"(roofline {_speed(plan.roofline_tok_s)})"
    )
    first = f"{_seconds(plan.ttft_s)} after {plan.prompt_tokens} tokens (read at {_speed(plan.prefill_tok_s)} tok/s)"
    return {"fits": fits, "decode": Text(decode), "first token": Text(first)}


def two_columns(title: str) -> Table:
    """A table of names and values, without a head."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _speed(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{1000 * value:.{int(value < 0.01)}f} ms" if value < 1 else f"{value:.1f} s"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
