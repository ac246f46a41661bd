"""Try probes in a process of their own: what ends it is a finding, and the others are tried in another one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = 60  # libraries are imported for the first time, on a slow disk


class Tried(NamedTuple):
    """How a probe ended."""

    ok: bool
    seen: str


def try_all(names: Sequence[str]) -> dict[str, Tried]:
    """Try functions of `probes`, by name; each is given its own process after one that crashed."""
    found: dict[str, Tried] = {}
    while left := [name for name in names if name not in found]:
        program = "from et_pipeline.doctor.probes import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *left], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = process.communicate(timeout=SECONDS)
            ending = f"its process ended with exit code {process.returncode}: {_last(err)}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            ending = f"no answer in {SECONDS} s"
        lines = [json.loads(line) for line in out.splitlines()]
        found |= {each["name"]: Tried(each["ok"], each["seen"]) for each in lines}
        unfinished = next((name for name in left if name not in found), None)
        if unfinished is not None:
            found[unfinished] = Tried(False, ending)
    return found


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
