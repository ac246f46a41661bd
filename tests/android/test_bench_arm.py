from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import arm
import bench_arm
import pytest
from artifacts import BuildError

MACHINE = arm.Arm(Path("tools"), Path("root"), Path("host"), Path("cores"), "")


def test_what_is_between_the_last_two_marks_counts():
    lines = ["mark 1 0 0 1 0", "mark 10 2 0 3 4", "mark 110 12 0 13 14", "999 99 0 99 99"]
    assert bench_arm.between_marks(lines) == [100, 10, 0, 10, 10]


def taking(prompt, token, load=1000):
    """Counts of a program that takes so much for each token of a prompt, and for each that follows."""

    def count(start, prefill, tokens):
        return [load + prompt * prefill + token * tokens, 0, 0, 0, token * tokens]

    return count


def test_the_difference_of_two_runs_counts():
    assert bench_arm.decode(taking(3_000_000, 8_000_000), 64) == [8.0, 0, 0, 0, 8.0]


def test_of_a_prompt_the_second_half_counts():
    assert bench_arm.prefill(taking(3_000_000, 8_000_000), 128)[0] == 3.0


def test_what_grew_is_said():
    rows = [{"what": "decode", "at": 64, "instructions": 1.04}, {"what": "prefill", "at": 128, "instructions": 9.0}]
    kept = [{"what": "decode", "at": 64, "instructions": 1.0}]
    assert bench_arm.grown(kept, rows) == [
        "decode at 64 takes 1.04 M instructions, 4.0 % more than the 1.0 M that are kept"
    ]
    assert bench_arm.grown([{**kept[0], "instructions": 1.02}], rows) == []


def test_kept_figures_of_other_programs_and_places_stay(tmp_path):
    file = tmp_path / "arm.json"
    first, second = ({"what": "decode", "at": at, "instructions": 1.0} for at in (64, 256))
    bench_arm.keep(file, "a", [second])
    bench_arm.keep(file, "b", [first])
    bench_arm.keep(file, "a", [first])
    bench_arm.keep(file, "a", [{**second, "instructions": 2.0}])
    assert json.loads(file.read_text())["programs"] == {"a": [first, {**second, "instructions": 2.0}], "b": [first]}


def test_a_program_that_does_not_run_is_said(monkeypatch):
    failed = subprocess.CompletedProcess([], 3, "REFUSED broken", "")
    monkeypatch.setattr(arm.Arm, "run", lambda *_, **__: failed)
    with pytest.raises(BuildError, match=r"x\.pte does not run: REFUSED broken"):
        bench_arm.of_program(MACHINE, Path("counter"), Path("x.pte"), 1)(0, 1, 1)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_the_counter_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.BUILD", tmp_path)
    assert bench_arm.make_counter().is_file()
