"""`et-bundle add-speed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from et_pipeline.cli.bundle.options import FolderArgument
from et_pipeline.cli.bundle.speeds import print_speed
from et_pipeline.cli.paths import named
from et_pipeline.errors import UserError


def add_speed(
    path: FolderArgument,
    report: Annotated[
        Path,
        typer.Argument(
            parser=named("REPORT.json"), metavar="REPORT.json", help="What the app's benchmark screen exported."
        ),
    ],
) -> None:
    """Write what the app measured on a phone into the bundle's manifest."""
    from et_pipeline.runtime import phone as phones

    try:
        data = report.read_bytes()
    except OSError as error:
        raise UserError(f"{report} cannot be read ({error.strerror}).") from error
    read = phones.read_report(data, str(report))
    phones.add_speed(path, read)
    print_speed(read.speed, as_json=False)
