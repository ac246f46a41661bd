"""Figures and sentences as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from et_pipeline.manifest import Check, ProgramInfo, SourceQuantization, Witness


def size(count: float) -> str:
    """Bytes for people: decimal units, as in shops and on phones."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def down(value: float, digits: int = 5) -> str:
    """Round down: 0.99999 must not read as 1."""
    factor = 10**digits
    return f"{int(value * factor) / factor:.{digits}f}"


def check_sentence(check: Check) -> str:
    """A check of the gate in words."""
    return f"{check.name} is {check.value:.4g}{within(check.interval)}, threshold {check.threshold:.4g}"


def within(interval: Sequence[float] | None) -> str:
    """Where an estimate lies with 95 %, behind it; nothing of a figure that is none."""
    return "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"


def witness_sentence(witness: Witness) -> str:
    """Whose code said what the original computes, and how near our reading of it is."""
    where = "" if witness.layers is None else f" in layers {', '.join(map(str, witness.layers))}"
    said = f"as {witness.name} {witness.version} reads it{where}"
    if witness.agreement is not None:
        said += f"; our reading's lowest cosine to that is {down(witness.agreement.min_cosine)}"
    return said if witness.note is None else f"{said} ({witness.note})"


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
