"""`et-pipeline doctor`: what is installed, what can run here, what is missing and how to get it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from et_pipeline import doctor
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.errors import UserError
from et_pipeline.host import expanded
from et_pipeline.job.composed import composed
from et_pipeline.job.mistakes import guarded


def main(arguments: Sequence[str]) -> None:
    """Command line.

    Args:
        arguments: those after `doctor`.
    """
    parser = argparse.ArgumentParser(
        prog="et-pipeline doctor",
        description="What is installed, what can run on this computer, what is missing and how to get it. "
        "Exit code 2: something is broken that nothing works without.",
        epilog="Example: et-pipeline doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for other programs instead of tables")
    as_json = parser.parse_args(arguments).json
    sys.exit(guarded(lambda: _doctor(as_json)))


def _doctor(as_json: bool) -> None:
    found = doctor.examine(expanded(composed([]).paths.cache).resolve())
    if as_json:
        print_json({**found.model_dump(), "broken": found.broken})
    else:
        _show(found)
    if found.broken:
        lacking = ", ".join(found.broken)
        packages = any(not each.ok for each in found.packages)
        ways = ["pip install --force-reinstall et-pipeline"] if packages else []
        ways += [each.get for each in found.abilities if each.needed and not each.ok]
        raise UserError(f"the base install is broken: {lacking}; {'; '.join(dict.fromkeys(ways))}")


def _show(found: doctor.Report) -> None:
    print_table("This computer", ("", ""), list(found.computer.items()))
    rows = [
        (each.name, each.found or "", each.wanted, each.tested or "", "" if each.ok else "FAILED")
        for each in found.packages
    ]
    print_table("Packages of the base install", ("", "found", "wanted", "tested", ""), rows)
    abilities = [
        ("ok" if each.ok else "FAILED" if each.needed else "no", each.name, each.seen, each.get)
        for each in found.abilities
    ]
    print_table("What was tried", ("", "", "seen", "how to get it"), abilities)
