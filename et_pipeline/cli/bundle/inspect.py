"""`et-bundle inspect`."""

from __future__ import annotations

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import JsonOption, PathArgument
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.report.bundle_tables import tables


def inspect(path: PathArgument, as_json: JsonOption = False) -> None:
    """Show what is in a bundle: model, programs, memory, quality, speed, tasks.

    Reads the manifest only. Names and sizes of the files are compared with it; 'verify' also checks their content.
    """
    manifest = bundles.peek(path)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    for title, columns, rows in tables(manifest):
        if rows:
            print_table(title, columns, rows)
