"""The two commands: `et-pipeline`, and in `bundle/` `et-bundle`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from et_pipeline import __version__
from et_pipeline.cli.streams import standard_streams
from et_pipeline.errors import EXIT_USER

# What `et-pipeline` does besides running, each with arguments of its own: `main` of a module takes them.
SUBCOMMANDS = {"doctor": "et_pipeline.cli.doctor", "report": "et_pipeline.cli.report"}


def main() -> None:
    """Console entry of `et-pipeline`."""
    with standard_streams():
        _main()


def _main() -> None:
    name = next(iter(sys.argv[1:]), "")
    if name == "--version":
        sys.stdout.write(f"et-pipeline {__version__}\n")
    elif name in SUBCOMMANDS:
        _imported(SUBCOMMANDS[name]).main(sys.argv[2:])
    elif name.isidentifier():
        known = " and ".join(SUBCOMMANDS)
        sys.stderr.write(f"et-pipeline: {name} is neither a setting, as in key=value, nor one of {known}\n")
        sys.exit(EXIT_USER)
    else:
        _imported("et_pipeline.cli.pipeline").main()  # with Hydra, which et-bundle does without


def bundle_main() -> None:
    """Console entry of `et-bundle`."""
    _imported("et_pipeline.cli.bundle").main()


def _imported(module: str) -> Any:
    """A module, which takes seconds: who gives up meanwhile needs no traceback."""
    try:
        return import_module(module)
    except KeyboardInterrupt:
        sys.exit(130)
