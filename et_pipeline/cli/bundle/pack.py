"""`et-bundle zip`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import FolderArgument
from et_pipeline.cli.paths import named
from et_pipeline.report.words import size


def pack(
    path: FolderArgument,
    out: Annotated[Path, typer.Argument(parser=named("OUT.zip"), metavar="OUT.zip", help="The file to write.")],
) -> None:
    """Pack a bundle folder into one .zip that the app can import."""
    bundles.write_zip(path, out)
    sys.stdout.write(f"{out}: {size(out.stat().st_size)}\n")
