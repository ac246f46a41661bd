"""The bundles under a folder, a row of figures for each program."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from et_pipeline.errors import UserError
from et_pipeline.manifest import FILE_NAME, Interval, Manifest, ProgramInfo
from et_pipeline.manifest.archive import peek
from et_pipeline.report.figures import accuracy, distance, front, program_bytes
from et_pipeline.report.words import down, size, within, written


class Metric(NamedTuple):
    """A figure that can be an axis of the picture.

    Attributes:
        title: what it is, with its unit.
        less: whether less is better.
        bytes: whether it is large enough to be written with M for a million.
    """

    title: str
    less: bool
    bytes: bool = False


METRICS = {
    "size": Metric("size of the program, bytes", True, True),
    "KL": Metric("KL from the original, nats per token", True),
    "perplexity ratio": Metric("perplexity, of the original's", True),
    "task accuracy": Metric("task accuracy, %", False),
    "prefill": Metric("prefill, tok/s", False),
    "decode": Metric("decode, tok/s", False),
    "first token": Metric("time to the first token, ms", True),
    "memory": Metric("resident memory, bytes", True, True),
}
TEXTS = ("bundle", "model", "recipe", "backend", "verdict", "KL measured on", "speed measured on")
COLUMNS = (
    *("bundle", "model", "recipe", "backend", "verdict", "size", "KL", "perplexity ratio", "task accuracy", "cosine"),
    *("prefill", "decode", "first token", "a text", "memory", "context"),
    *("KL measured on", "speed measured on"),
)
UNITS = {
    "KL": "nats",
    "task accuracy": "change in points",
    "prefill": "tok/s",
    "decode": "tok/s",
    "first token": "ms",
    "a text": "ms",
    "context": "tokens",
}


class Cell(NamedTuple):
    """What a table shows, and what it is sorted by.

    Attributes:
        aside: shown behind it, smaller.
        interval: where the figure lies with 95 %.
    """

    text: str
    value: float | str
    aside: str = ""
    interval: Interval | None = None


class Row(NamedTuple):
    """A program of a bundle."""

    bundle: str
    model: str
    passed: bool
    cells: dict[str, Cell]


def find(folder: Path) -> tuple[dict[str, Manifest], list[str]]:
    """Look for bundles, folders and `.zip`, however deep.

    Returns:
        Their manifests by path under the folder, and of what is broken or another's a sentence each.

    Raises:
        UserError: there is no bundle.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the one that your bundles are in, such as bundles")
    found: dict[str, Manifest] = {}
    left_out: list[str] = []
    for path in _candidates(folder, left_out):
        name = written(folder.resolve().name if path == folder else path.relative_to(folder).as_posix())
        try:
            found[name] = peek(path)
        except UserError as error:
            left_out.append(written(str(error)))
    if not found:
        others = f"; {left_out[0]}" if left_out else ""
        raise UserError(f"{folder} has no bundle that can be read{others}; et-pipeline experiment=demo makes one")
    return found, left_out


def _candidates(folder: Path, unreadable: list[str]) -> Iterator[Path]:
    """What may be a bundle; not what a run is writing just now, or left when it was killed."""

    def note(error: OSError) -> None:
        unreadable.append(written(f"{error.filename} cannot be read ({error.strerror})."))

    for place, folders, files in os.walk(folder, onerror=note):
        if FILE_NAME in files:
            folders.clear()
            yield Path(place)
        else:
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".tmp"))
            yield from (Path(place, name) for name in sorted(files) if name.endswith(".zip"))


def rows(bundles: dict[str, Manifest]) -> list[Row]:
    """A row for each program, those of a model together, the smallest first."""
    known = {(_model(manifest), manifest.what.source.source) for manifest in bundles.values()}
    several = Counter(name for name, _ in known)  # all of model=custom have one name
    made = []
    for path, manifest in bundles.items():
        name, source = _model(manifest), manifest.what.source.source
        model = name if several[name] == 1 else f"{name}, {source}"
        for program in manifest.programs:
            cells = {"bundle": _text(path), "model": _text(model), **dict(_cells(manifest, program))}
            made.append(Row(path, model, manifest.quality_of(program).gate.passed, cells))
    return sorted(made, key=lambda row: (row.model, row.cells["size"].value, row.bundle))


def columns(made: Sequence[Row]) -> list[str]:
    """What at least one row has; what figures were measured on only where that is not the same for all."""
    return [
        name
        for name in COLUMNS
        if (values := {row.cells[name].text for row in made if name in row.cells})
        and (len(values) > 1 or not name.endswith("measured on"))
    ]


def fronts(made: Sequence[Row]) -> dict[str, dict[str, list[int]]]:
    """The Pareto fronts of all pairs of metrics, of all rows and within each model; what failed its gate is on none.

    Returns:
        By the pair's names with a bar between them, and by 'all' and 'model': numbers of rows.
    """
    models = sorted({row.model for row in made})
    found = {}
    for x, y in combinations(METRICS, 2):
        points = {
            number: (_cost(row, x), _cost(row, y))
            for number, row in enumerate(made)
            if row.passed and {x, y} <= row.cells.keys()
        }
        within_models = [{key: at for key, at in points.items() if made[key].model == model} for model in models]
        found[f"{x}|{y}"] = {"all": front(points), "model": [key for each in within_models for key in front(each)]}
    return found


def _cost(row: Row, metric: str) -> float:
    value = float(row.cells[metric].value)
    return value if METRICS[metric].less else -value


def _model(manifest: Manifest) -> str:
    """What the run called the model; settings are anything, in a bundle that others made."""
    settings = manifest.what.settings.get("model")
    name = settings.get("name") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else manifest.what.name


def _cells(manifest: Manifest, program: ProgramInfo) -> Iterator[tuple[str, Cell]]:
    quality, bytes_ = manifest.quality_of(program), program_bytes(manifest, program)
    steps = [step.step for step in manifest.what.adaptation]
    yield "recipe", _text(", ".join([*steps, program.recipe or "unknown"]))
    yield "backend", _text(" ".join([program.backend, *program.soc]))
    yield "size", Cell(size(bytes_), bytes_)
    if (far := distance(quality)) is not None:
        yield "KL", Cell(f"{max(0.0, far.kl):.4f}", max(0.0, far.kl), within(far.kl_interval, 2), far.kl_interval)
        yield "KL measured on", _text(far.measured_on)
        if far.ratio is not None:
            yield (
                "perplexity ratio",
                Cell(f"{far.ratio:.4f}", far.ratio, within(far.ratio_interval), far.ratio_interval),
            )
    if (scored := accuracy(quality)) is not None:
        yield "task accuracy", Cell(f"{scored[0]:.1f} %", scored[0], f"{scored[1]:+.1f}")
    if quality.embedding is not None:
        yield "cosine", Cell(down(quality.embedding.original.cosine), quality.embedding.original.cosine)
    yield from _speeds(manifest, program)
    memory = manifest.memory_of(program).resident_bytes
    yield "memory", Cell(size(memory), memory)
    yield "context", Cell(f"{program.max_context:,}", program.max_context)
    ran = "" if program.executed else "a twin executed" if program.twin else "not executed"
    yield "verdict", _text("passed" if quality.gate.passed else "failed")._replace(aside=ran)


def _speeds(manifest: Manifest, program: ProgramInfo) -> Iterator[tuple[str, Cell]]:
    """Of the first machine where it was measured."""
    for speed in (program.speed or (manifest.speed if program.quality is None else []))[:1]:
        for name, found, digits in (
            ("prefill", speed.prefill_tok_s, 0),
            ("decode", speed.decode_tok_s, 0 if speed.decode_tok_s.p50 >= 100 else 1),
            ("first token", speed.ttft_ms, 1),
        ):
            yield name, Cell(f"{found.p50:,.{digits}f}", found.p50, interval=[found.p10, found.p90])
        yield "speed measured on", _text(speed.where)
    for embedded in manifest.embedding.speed[:1] if manifest.embedding else ():
        yield "a text", Cell(f"{embedded.text_ms.p50:,.1f}", embedded.text_ms.p50)
        yield "speed measured on", _text(embedded.where)


def _text(text: str) -> Cell:
    return Cell(text, text.lower())
