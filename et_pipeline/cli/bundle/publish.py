"""`et-bundle publish`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import PathArgument, RepositoryArgument
from et_pipeline.cli.bundle.terminal import print_table, printable
from et_pipeline.report.words import size


def publish(
    path: PathArgument,
    repository: RepositoryArgument,
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the model card and the files, and upload nothing.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Publish it though its quality gate failed.")] = False,
) -> None:
    """Put a bundle on the Hugging Face hub, with a model card of its figures, limits and licence.

    Every file's hash is checked first. A repository that is there and holds no bundle is left alone. Exit code 3: the
    bundle's quality gate failed, and nothing was uploaded.
    """
    from huggingface_hub.utils import disable_progress_bars

    from et_pipeline.bundle.publish import prepare, upload

    with bundles.open_bundle(path) as bundle:
        card, files = prepare(bundle, repository, failed)
        if dry_run:
            sys.stdout.write(
                f"{printable(card)}\nNothing was uploaded. What would be in {repository}, beside this card:\n"
            )
            print_table("", ("file", "size"), [(name, size(file.stat().st_size)) for name, file in files.items()])
            return
        if not sys.stderr.isatty():
            disable_progress_bars()
        sys.stdout.write(f"{upload(card, files, repository, private)}\n")
