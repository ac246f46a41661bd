"""What a token costs on an arm64 core, against the figures that are kept: see android_demo/tools/bench_arm.py."""

from __future__ import annotations

import json
from pathlib import Path

import bench_arm
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.arm]

KEPT = Path(__file__).parents[2] / "docs" / "results" / "arm.json"


@pytest.mark.parametrize("recipe", ["8da4w", "8da8w"])
def test_a_token_takes_no_more_instructions_than_is_kept(machine, lowered, recipe):
    program = lowered("experiment=demo", f"recipe={recipe}")
    count = bench_arm.of_program(machine, bench_arm.make_counter(), program, 128)
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["programs"][f"tiny_assistant {recipe}"]

    def more():
        rows = list(bench_arm.figures(count, [64, 256], [128]))
        assert {(row["what"], row["at"]) for row in rows} <= {(row["what"], row["at"]) for row in kept}
        return bench_arm.grown(kept, rows)

    # Seldom the JVM does something else in between, in 4.4 M instructions; a program that grew does so each time.
    assert (more() and more()) == []
