"""Ends of sentences about a setting."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
