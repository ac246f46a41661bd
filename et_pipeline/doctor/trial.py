"""Try functions in a process of their own: one that takes it down is a finding too, and the others get another one.

`try_all` is the caller's side, `main` the process's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from et_pipeline.errors import UserError

SECONDS = 300  # a machine that is busy with other things is not broken


class Tried(NamedTuple):
    """How a function ended."""

    ok: bool
    seen: str


def try_all(module: str, names: Sequence[str]) -> dict[str, Tried]:
    """Try functions of a module that return what they saw, or raise.

    Args:
        module: its whole name.
        names: theirs.

    Returns:
        By name, how each ended.
    """
    found: dict[str, Tried] = {}
    while left := [name for name in names if name not in found]:
        words = [sys.executable, "-c", f"from {__name__} import main; main()", module, *left]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
            out, ending = done.stdout, f"its process ended with exit code {done.returncode}: {_last(done.stderr)}"
        except subprocess.TimeoutExpired as late:
            out, ending = (late.stdout or b"").decode(errors="replace"), f"no answer in {SECONDS} s"
        lines = [json.loads(line) for line in out.splitlines()]
        found |= {each["name"]: Tried(each["ok"], each["seen"]) for each in lines}
        unfinished = next((name for name in left if name not in found), None)
        if unfinished is not None:
            found[unfinished] = Tried(False, ending)
    return found


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def main() -> None:
    """Call those that the arguments name; a line of JSON on standard output for each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    module = import_module(sys.argv[1])
    for name in sys.argv[2:]:
        try:
            ok, seen = True, getattr(module, name)()
        except UserError as error:
            ok, seen = False, str(error)
        except ModuleNotFoundError as error:
            ok, seen = False, f"{error.name} is not installed"
        except Exception as error:  # whatever a library raises is what was to be found out
            ok, seen = False, f"{type(error).__name__}: {error}"
        answers.write(json.dumps({"name": name, "ok": ok, "seen": " ".join(seen.split())}) + "\n")
