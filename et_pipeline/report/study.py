"""The front of a study that `hydra/sweeper=optuna` has made: the trials that no other beats in everything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from et_pipeline.report.metrics import METRICS
from et_pipeline.settings import Metric

if TYPE_CHECKING:
    import optuna

BUNDLE, WHY = "bundle", "why"  # what a trial says of itself: where its bundle is, or why there is none


class Point(NamedTuple):
    """A trial of the front.

    Attributes:
        number: of the trial.
        params: the settings that were searched.
        values: its figures by metric.
        bundle: where it is.
    """

    number: int
    params: Mapping[str, Any]
    values: Mapping[Metric, float]
    bundle: Path


def metric_names(study: optuna.Study) -> list[Metric]:
    """What a study weighs, in its order."""
    return study.metric_names or []


def name_metrics(study: optuna.Study, names: Sequence[Metric]) -> None:
    """Write down what a study weighs, where `metric_names` and Optuna's dashboard find it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls it experimental
        study.set_metric_names(list(names))


def front(study: optuna.Study) -> list[Point]:
    """The points of a study's front whose bundles passed their gate, by their first metric."""
    names = metric_names(study)
    found = [
        Point(each.number, each.params, dict(zip(names, each.values, strict=True)), Path(each.user_attrs[BUNDLE]))
        for each in study.best_trials
    ]
    return sorted(found, key=lambda each: list(each.values.values()))


def show(study: optuna.Study) -> None:
    """Print the front, a row per point."""
    names = metric_names(study)
    made = Table(title=f"The front of {study.study_name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("trial", *(METRICS[name].words for name in names)):
        made.add_column(column, justify="right")
    made.add_column("settings")
    for point in front(study):
        figures = [METRICS[name].shown(value) for name, value in point.values.items()]
        asked = " ".join(f"{key}={value}" for key, value in point.params.items())
        made.add_row(f"#{point.number}", *figures, Text(asked))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(made)
