"""Paths of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from et_pipeline.errors import UserError


def named(key: str) -> Callable[[str], Path]:
    """What makes a path of an argument or option, but not the folder here of a variable that is not set.

    Args:
        key: what the argument or option is called.
    """

    def path(given: str) -> Path:
        if str(given) == "":
            raise UserError(f"{key} is empty, and should name a file or folder; . is the folder here")
        return Path(given)

    return path
