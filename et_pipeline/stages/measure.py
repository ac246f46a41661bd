"""measure: load time and speed of the .pte on this host, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from et_pipeline import forms
from et_pipeline.forms.base import PTE
from et_pipeline.settings import Measure
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, kind: forms.Kind, measure: Measure) -> BaseModel:
    """Time the program, as its form is called."""
    return forms.get(kind).measure(inputs["lower"] / PTE, inputs["acquire"] / "tokenizer.json", measure)
