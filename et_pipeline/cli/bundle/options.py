"""Arguments and options that several subcommands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from et_pipeline.cli.paths import named

EXAMPLE = "bundles/tiny_assistant-8da4w-g32-xnnpack"  # what make demo makes


def example(arguments: str) -> str:
    """What a command's help ends with; `BUNDLE` stands for a path."""
    return f"Example: et-bundle {arguments.replace('BUNDLE', EXAMPLE)}"


PathArgument = Annotated[
    Path, typer.Argument(parser=named("BUNDLE"), metavar="BUNDLE", help="The bundle: a folder or a .zip.")
]
FolderArgument = Annotated[Path, typer.Argument(parser=named("FOLDER"), metavar="FOLDER", help="The bundle's folder.")]
RepositoryArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for other programs instead of tables.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that compute; by default the runtime chooses.", show_default=False)
]
