"""The page of `et-pipeline report`: every bundle under a folder in one HTML file that needs no other and no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from et_pipeline.errors import UserError
from et_pipeline.manifest import Manifest
from et_pipeline.report.bundle_tables import tables
from et_pipeline.report.bundles import METRICS, TEXTS, UNITS, Row, columns, fronts, rows
from et_pipeline.report.figures import least_drawn
from et_pipeline.report.page import render
from et_pipeline.report.words import check_sentence


def page(title: str, bundles: dict[str, Manifest], left_out: Sequence[str] = ()) -> str:
    """The page as HTML.

    Args:
        title: its heading.
        bundles: manifests by the bundles' paths.
        left_out: what is no bundle, a sentence each.

    Raises:
        UserError: plotly is not installed.
    """
    if find_spec("plotly") is None:
        raise UserError("plotly, which draws the page, is not installed; pip install 'et-pipeline[report]'")
    from plotly.offline import get_plotlyjs

    made = rows(bundles)
    shown = columns(made)
    return render(
        "bundles.html",
        [get_plotlyjs(), Path(__file__).with_name("bundles.js").read_text(encoding="utf-8")],
        title=title,
        rows=made,
        columns=shown,
        texts=TEXTS,
        units={name: UNITS.get(name) for name in shown},
        models=sorted({row.model for row in made}),
        metrics=[name for name in METRICS if name in shown],
        notes={name: _only(made, name) for name in ("KL measured on", "speed measured on") if name not in shown},
        data=_drawn(made, shown),
        details=[_detail(path, manifest) for path, manifest in bundles.items()],
        left_out=left_out,
        anchor=anchor,
    )


def anchor(path: str) -> str:
    """Where a bundle's own part of the page is."""
    return f"bundle/{quote(path)}"


def _only(made: Sequence[Row], name: str) -> str | None:
    return next((row.cells[name].text for row in made if name in row.cells), None)


def _drawn(made: Sequence[Row], shown: Sequence[str]) -> dict[str, Any]:
    """What the script draws: points in the order of the table's rows."""
    metrics = {name: metric._asdict() for name, metric in METRICS.items() if name in shown}
    if "KL" in metrics:
        metrics["KL"]["floor"] = least_drawn(float(row.cells["KL"].value) for row in made if "KL" in row.cells)
    points = [
        {
            "name": row.bundle,
            "model": row.model,
            "label": row.cells["recipe"].text,
            "about": f"{row.cells['recipe'].text}, {row.cells['backend'].text}",
            "passed": row.passed,
            "figures": {name: row.cells[name]._asdict() for name in metrics if name in row.cells},
        }
        for row in made
    ]
    return {"metrics": metrics, "points": points, "fronts": fronts(made)}


def _detail(path: str, manifest: Manifest) -> dict[str, Any]:
    """A bundle's own part: the verdict on each program, what `et-bundle inspect` shows, and sample answers."""
    verdicts = []
    for program in manifest.programs:
        gate = manifest.quality_of(program).gate
        failed = "; ".join(check_sentence(check) for check in gate.checks if not check.passed)
        verdicts.append((program.file, failed, len(gate.checks)))
    samples = [(each.task, each.prompt, each.answer) for each in manifest.samples]
    for adapter in manifest.adapters:
        samples += [(f"{each.task}, adapter {adapter.name}", each.prompt, each.answer) for each in adapter.samples]
    similar = manifest.embedding.samples if manifest.embedding else []
    samples += [("similarity", f"{each.first}\n{each.second}", f"{each.cosine:.2f}") for each in similar]
    return {
        "path": path,
        "verdicts": verdicts,
        "tables": [table for table in tables(manifest) if table[2]],
        "samples": samples,
    }
