"""`et-bundle eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from et_pipeline.cli.bundle.options import JsonOption, PathArgument, ThreadsOption
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.cli.paths import named
from et_pipeline.errors import UserError


def evaluate(
    path: PathArgument,
    tasks: Annotated[str, typer.Option(metavar="NAME,...", help="Tasks of lm-evaluation-harness.")],
    include_path: Annotated[
        Path | None,
        typer.Option(
            parser=named("--include-path"),
            metavar="FOLDER",
            help="Tasks of your own, as the harness's YAML.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of a task; default: all.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Score a bundle on tasks of EleutherAI's lm-evaluation-harness: the program itself, as the phone runs it.

    Needs the extra 'eval'. A token that is scored takes as long as a token of an answer; begin with --limit 20.
    """
    with harness_needed("et-bundle eval"):
        from et_pipeline.bundle.harness import BundleModel
        from et_pipeline.evaluation import harness
    model = BundleModel(str(path), threads)
    found = harness.evaluate(model, tasks.split(","), include_path, limit)
    results, counts = found["results"], found["n-samples"]
    if as_json:
        print_json({task: {**figures, "items": counts[task]["effective"]} for task, figures in results.items()})
        return
    rows = [
        (task, name.split(",")[0], f"{value:.4f}", _stderr(figures, name), str(counts[task]["effective"]))
        for task, figures in results.items()
        for name, value in figures.items()
        if isinstance(value, float) and "_stderr," not in name
    ]
    print_table(model.name, ("task", "metric", "value", "error", "items"), rows)


@contextmanager
def harness_needed(command: str) -> Iterator[None]:
    """Say how to install the harness where it is imported and not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise UserError(f"{command} needs lm-evaluation-harness: pip install 'et-pipeline[eval]'.") from error


def _stderr(figures: Mapping[str, Any], name: str) -> str:
    """The standard error of a metric, where the harness has one."""
    error = figures.get(name.replace(",", "_stderr,"))
    return f"{error:.4f}" if isinstance(error, float) else ""
