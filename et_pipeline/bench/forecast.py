"""What `mode=plan` says of an export, held against exports of models of many shapes with every recipe.

The weights are random, the shapes real, and a run ends with the program: its size, and the memory and time of the
stages up to there, are what the constants of `plan` were fitted to.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.forecast import export_seconds, pte_bytes, read_model, stage_peaks
from et_pipeline.host import machine
from et_pipeline.job.composed import composed

STAGES = ("quantize", "export", "lower")
PAIRS = (
    ("smollm2_135m", "8da4w"),
    ("smollm2_135m", "int4_weight_only"),
    ("smollm2_135m", "int8_weight_only"),
    ("smollm2_135m", "8da8w"),
    ("smollm2_135m", "fp32"),
    ("gemma3_270m", "8da8w"),
    ("gemma3_270m", "8da4w"),
    ("smollm2_360m", "8da8w"),
    ("smollm2_360m", "8da4w"),
    ("qwen2_5_0_5b", "8da4w"),
    ("qwen3_0_6b", "8da4w"),
    ("qwen3_0_6b", "int4_weight_only"),
    ("llama3_2_1b", "8da4w"),
    ("lfm2_350m", "8da4w"),
    ("qwen3_5_0_8b", "8da4w"),
)


class Comparison(NamedTuple):
    """A forecast and what happened; bytes and CPU seconds."""

    model: str
    recipe: str
    pte: tuple[int, int]
    lower: tuple[int, int]  # peak of that stage
    peak: tuple[int, int]  # of all stages
    cpu: tuple[float, float]


def measure(pairs: Sequence[tuple[str, str]], exports: list[dict[str, Any]], keep: Callable[[Any], None]) -> None:
    """Export each pair, in a cache that is removed after its model.

    Args:
        pairs: model and recipe; those of one model follow each other.
        exports: what was measured before; an export of the same pair is replaced.
        keep: called with all exports after each.
    """
    program = str(Path(sys.executable).parent / "et-pipeline")
    for model, group in itertools.groupby(pairs, lambda pair: pair[0]):
        with tempfile.TemporaryDirectory() as cache:
            for _, recipe in group:
                done = subprocess.run(
                    [
                        *(program, "experiment=forecast", "format=json", f"paths.cache={cache}"),
                        *(f"model={model}", f"recipe={recipe}"),
                    ],
                    cwd=cache,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads that wait for each other cost CPU time too
                    stdout=subprocess.PIPE,
                    text=True,
                )
                if done.returncode:
                    sys.exit(done.returncode)
                stages = json.loads(done.stdout)["stages"]
                export = {
                    "model": model,
                    "recipe": recipe,
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "machine": machine(),
                    "pte_bytes": (Path(stages["lower"]["folder"]) / "model.pte").stat().st_size,
                    "stages": {
                        name: {key: value for key, value in stages[name].items() if key != "folder"} for name in STAGES
                    },
                }
                exports = [each for each in exports if (each["model"], each["recipe"]) != (model, recipe)] + [export]
                keep(exports)


def full_size_exports(manifests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exports of the experiment `full_size`, in the form of the others."""
    return [
        {
            "model": each["what"]["settings"]["model"]["name"],
            "recipe": each["what"]["settings"]["recipe"]["scheme"],
            "pte_bytes": each["memory"]["weights_bytes"],
            "stages": {name: each["stages"][name] for name in STAGES},
        }
        for each in manifests
    ]


def compare(exports: Iterable[dict[str, Any]]) -> list[Comparison]:
    """Forecast each export anew."""
    compared = []
    for each in exports:
        pair = [f"model={each['model']}", f"recipe={each['recipe']}"]
        settings = composed(["mode=plan", "experiment=forecast", *pair])
        known, stages = read_model(settings.model), each["stages"].values()
        peaks = stage_peaks(known, settings.recipe)
        compared.append(
            Comparison(
                each["model"],
                settings.recipe.name,
                (pte_bytes(known, settings.recipe), each["pte_bytes"]),
                (peaks["lower"], each["stages"]["lower"]["peak_rss_bytes"]),
                (max(peaks.values()), max(stage["peak_rss_bytes"] for stage in stages)),
                (export_seconds(known, settings.recipe), sum(stage["cpu_s"] for stage in stages)),
            )
        )
    return sorted(compared, key=lambda each: (each.pte[1], each.model))
