"""The two commands: `et-pipeline`, and in `bundle/` `et-bundle`."""

from __future__ import annotations

import sys
from importlib import import_module

# What `et-pipeline` does besides running, each with arguments of its own: `main` of a module takes them.
SUBCOMMANDS = {"doctor": "et_pipeline.cli.doctor", "report": "et_pipeline.cli.report"}


def main() -> None:
    """Console entry of `et-pipeline`."""
    name = next(iter(sys.argv[1:]), "")
    if name in SUBCOMMANDS:
        import_module(SUBCOMMANDS[name]).main(sys.argv[2:])
        return
    from et_pipeline.cli import pipeline  # with Hydra, which et-bundle does without

    pipeline.main()
