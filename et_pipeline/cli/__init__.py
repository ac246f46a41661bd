"""The two commands: `et-pipeline`, and in `bundle/` `et-bundle`."""

import sys
from importlib import import_module

COMMANDS = {"report": "et_pipeline.cli.report"}
"""What `et-pipeline` does besides running: the first word that says so, and the module whose `main` does it."""


def main() -> None:
    """Console entry of `et-pipeline`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    import_module(COMMANDS.get(name, "et_pipeline.cli.pipeline")).main()  # et-bundle does without what these import
