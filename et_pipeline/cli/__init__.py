"""The two commands: `et-pipeline`, and in `bundle/` `et-bundle`."""

from __future__ import annotations

import io
import sys
from importlib import import_module

# What `et-pipeline` does besides running, each with arguments of its own: `main` of a module takes them.
SUBCOMMANDS = {"doctor": "et_pipeline.cli.doctor", "report": "et_pipeline.cli.report"}


def lenient() -> None:
    """Have escapes for what the terminal's character set lacks: no reason to fail at the end of hours of work."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Console entry of `et-pipeline`."""
    lenient()
    name = next(iter(sys.argv[1:]), "")
    if name in SUBCOMMANDS:
        import_module(SUBCOMMANDS[name]).main(sys.argv[2:])
        return
    from et_pipeline.cli import pipeline  # with Hydra, which et-bundle does without

    pipeline.main()
