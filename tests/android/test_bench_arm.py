from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import arm
import bench_arm
import pytest
from artifacts import BuildError

MACHINE = arm.Arm(Path("tools"), Path("root"), Path("host"), Path("cores"), "")


def test_the_thread_that_computes_is_the_one_with_dot_products_or_else_simd():
    assert bench_arm.busiest(["900 0 0 10 10", "500 3 0 10 10", "700 1 1 10 10"])[0] == 500
    assert bench_arm.busiest(["900 0 0 10 10", "500 0 0 10 90"])[0] == 500


def test_the_difference_of_two_runs_counts(monkeypatch):
    monkeypatch.setattr(
        bench_arm, "counted", lambda *given: [1000 + 8_000_000 * given[-1], 0, 0, 0, 1_000_000 * given[-1]]
    )
    assert bench_arm.per_token(MACHINE, Path("counter"), Path("x.pte"), 64, 16) == [8.0, 0, 0, 0, 1.0]


def test_a_program_that_does_not_run_is_said(monkeypatch):
    failed = subprocess.CompletedProcess([], 3, "REFUSED broken", "")
    monkeypatch.setattr(arm.Arm, "run", lambda *_, **__: failed)
    with pytest.raises(BuildError, match=r"x\.pte does not run: REFUSED broken"):
        bench_arm.counted(MACHINE, Path("counter"), Path("x.pte"), 1, 1, 1)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_the_counter_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.BUILD", tmp_path)
    assert bench_arm.make_counter().is_file()
