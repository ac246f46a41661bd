"""`et-bundle push`."""

from __future__ import annotations

import sys

from et_pipeline.cli.bundle.options import PathArgument


def push(path: PathArgument) -> None:
    """Give a bundle to the app on the connected phone."""
    from et_pipeline.runtime import phone as phones

    sys.stdout.write(f"{phones.push(path)} is on the phone; the app checks it and takes it in.\n")
