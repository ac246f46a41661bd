"""`et-pipeline report`: every bundle under a folder on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from et_pipeline.cli.bundle.terminal import printable
from et_pipeline.cli.paths import named
from et_pipeline.errors import UserError
from et_pipeline.job.mistakes import guarded
from et_pipeline.manifest import FILE_NAME
from et_pipeline.report.bundles import find
from et_pipeline.report.bundles_page import page
from et_pipeline.report.page import write_whole
from et_pipeline.report.words import size, written


def report(folder: Path, out: Path) -> None:
    """Write the page, and say what is on it and what is not.

    Raises:
        UserError: there is no bundle, or `out` cannot be written.
    """
    if any((place / FILE_NAME).is_file() for place in out.resolve().parents):
        raise UserError(f"--out {out} is inside a bundle, which holds nothing but its own files; give another place")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file, as {out / 'report.html'}")
    bundles, left_out = find(folder)
    try:
        write_whole({out: page(f"Every bundle under {written(folder.resolve().name)}/", bundles, left_out).encode()})
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    for sentence in left_out:
        sys.stderr.write(f"left out: {printable(sentence)}\n")
    sys.stdout.write(f"{len(bundles)} bundle{'s' if len(bundles) > 1 else ''}: {out} ({size(out.stat().st_size)})\n")


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="et-pipeline report",
        description="Every bundle under a folder on one page that opens offline: a table to sort and filter, the "
        "Pareto front of any two figures, and what is known of each bundle.",
        epilog="Example: et-pipeline report bundles --out report.html",
    )
    parser.add_argument("folder", nargs="?", type=named("folder"), default="bundles", help="default: bundles")
    parser.add_argument(
        "--out", type=named("--out"), default="report.html", metavar="FILE", help="default: report.html"
    )
    sys.exit(guarded(lambda: report(**vars(parser.parse_args(arguments)))))
