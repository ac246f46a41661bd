"""`et-bundle pull`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from et_pipeline.cli.bundle.options import RepositoryArgument
from et_pipeline.cli.paths import named
from et_pipeline.host import expanded
from et_pipeline.report import progress
from et_pipeline.report.words import size


def pull(
    repository: RepositoryArgument,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit; default: main.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            parser=named("--to"), metavar="FOLDER", help="The folder to make; default: bundles/ and the name."
        ),
    ] = None,
) -> None:
    """Get a bundle from the Hugging Face hub, and check every file against its manifest.

    A download that was broken off goes on where it was.
    """
    from et_pipeline.bundle.pull import pull as get

    folder = expanded(to, "--to ") if to else Path("bundles") / repository.rpartition("/")[2]
    shown = progress.face(quiet=not sys.stderr.isatty())
    try:
        manifest = get(repository, revision, folder, shown.start("pull"))
    finally:
        shown.close()
    total, passed = sum(file.size for file in manifest.files.values()), all(gate.passed for gate in manifest.gates)
    verdict = "passed" if passed else "FAILED"
    sys.stdout.write(f"{folder}: {size(total)}, every SHA-256 as in the manifest; its quality gate {verdict}\n")
