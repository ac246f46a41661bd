"""Words of settings, and ends of sentences about them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

Named = Annotated[str, Field(min_length=1)]
"""A file, a folder or what else has a name: never that of a variable that is not set."""


def closest(word: str, known: Iterable[str]) -> str:
    """What exists, or of many things the one that is spelt most like `word`: the end of a sentence."""
    names = sorted(known)
    if 0 < len(names) <= 24:
        return f"; choose from {', '.join(names)}"
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
