"""Figures and sentences as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from et_pipeline.manifest import Adaptation, Check, Embedding, ProgramInfo, SourceQuantization, Witness


def size(count: float) -> str:
    """Bytes for people: decimal units, as in shops and on phones."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def written(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


def down(value: float, digits: int = 5) -> str:
    """Round down: 0.99999 must not read as 1."""
    factor = 10**digits
    return f"{int(value * factor) / factor:.{digits}f}"


def vector(embedding: Embedding) -> str:
    """What an embedding is."""
    shorter = f" (or {', '.join(map(str, embedding.dimensions))})" if embedding.dimensions else ""
    how = {"mean": "mean of the tokens", "cls": "the first token's", "lasttoken": "the last token's"}[embedding.pooling]
    length = "of length 1" if embedding.normalised else "not normalised"
    return f"{embedding.dimension} numbers{shorter}, {how}, {length}"


def check_sentence(check: Check) -> str:
    """A check of the gate in words."""
    return f"{check.name} is {check.value:.4g}{within(check.interval)}, threshold {check.threshold:.4g}"


def within(interval: Sequence[float] | None, digits: int = 4) -> str:
    """Where an estimate lies with 95 %, behind it; nothing of a figure that is none."""
    return "" if interval is None else f" [{interval[0]:.{digits}g}, {interval[1]:.{digits}g}]"


def witness_sentence(witness: Witness) -> str:
    """Whose code said what the original computes, and how near our reading of it is."""
    where = "" if witness.layers is None else f" in layers {', '.join(map(str, witness.layers))}"
    said = f"as {witness.name} {witness.version} reads it{where}"
    if witness.agreement is not None:
        said += f"; our reading's lowest cosine to that is {down(witness.agreement.min_cosine)}"
    return said if witness.note is None else f"{said} ({witness.note})"


def adapted(step: Adaptation) -> str:
    """What was done to a model before it was quantized, and how far that took it from what it was."""
    figures: dict[str, Any] = step.figures
    name = step.step.replace("_", " ")
    if step.step == "merge_lora":
        return f"{name}: rank {figures['rank']:.0f}, {figures['tensors']:.0f} tensors changed"
    if "steps" in figures:
        did = f"{figures['steps']:.0f} steps, {figures['tokens']:,.0f} tokens"
    else:
        did = f"{figures['cut']}, {figures['after'] / figures['before']:.0%} of the parameters left"
    if step.step == "qat":
        changed, moved = 100 * figures["changed"], f"{figures['before']:.4f} to {figures['after']:.4f} nats"
        return f"{name}: {did}, {changed:.1f} % of the integers changed; KL on texts kept back {moved}"
    said = f"{name}: {did}; then KL {figures['kl']:.4f} nats{within((figures['kl_low'], figures['kl_high']))}"
    if figures["perplexity"] is not None:
        said += f", perplexity {figures['perplexity']:.3f} (before all {figures['original_perplexity']:.3f})"
    return said


def imported(source: SourceQuantization) -> str:
    """What of a source's own quantization is left, in words."""
    parts = [source.form]
    if source.kept is not None and source.kept.weights:
        count, error = source.kept.weights, source.kept.error
        parts.append(f"{count:,} integers kept, {f'scales off by {100 * error:.2g} %' if error else 'scales too'}")
    if source.requantized is not None and source.requantized.weights:
        count, error = source.requantized.weights, source.requantized.error
        parts.append(f"{count:,} weights requantized, off by {100 * error:.2g} %")
    return "; ".join(parts)


def outside(program: ProgramInfo) -> list[str]:
    """What runs beside the delegates, most first: a line per reason, such as 'no kernel: aten::cat.out, 2 x …'."""
    by_reason: dict[str, list[str]] = {}
    for name, count in sorted(program.fallback_operators.items(), key=lambda item: -item[1]):
        reason = program.fallback_reasons.get(name, "reason unknown" if program.delegates else "no delegate")
        by_reason.setdefault(reason, []).append(name if count == 1 else f"{count} x {name}")
    return [f"{reason}: {', '.join(names)}" for reason, names in by_reason.items()]
