"""The app's own engine in the arm64 library: its token loop, its tokenizer, its sampling."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.arm]
BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny_assistant-8da4w-g32-xnnpack"  # of make demo
QUESTIONS = ("What is the capital of Italy?", "And of Spain?", "Do you know a joke about phones?")


@pytest.fixture(scope="module")
def engine(machine):
    import arm

    return arm.engine_path()


@pytest.mark.parametrize("core", ["cortex-a76", "max"])
def test_the_apps_engine_answers(machine, engine, core):
    done = machine.run(core, BUNDLE, *QUESTIONS, engine=engine)
    assert done.returncode == 0, done.stderr
    answers = [line.split(" ", 1) for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert answers[0][1] == "The capital of Italy is Rome."
    assert answers[1][1] == "The capital of Spain is Madrid."
    assert "📱" in answers[2][1]  # of several tokens
    assert int(answers[1][0]) < 12  # the new turn alone was fed
