from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "android_demo" / "tools"))


@pytest.fixture(scope="session")
def machine():
    import arm
    from artifacts import BuildError

    try:
        return arm.make_arm()
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def lowered(tmp_path_factory):
    """A program of the built-in model, or another, made through the command."""
    folder = tmp_path_factory.mktemp("arm")

    @cache
    def make(*words):
        done = subprocess.run(
            [Path(sys.executable).parent / "et-pipeline", *words, "until=lower", "format=json"],
            cwd=folder,
            env={**os.environ, "ET_PIPELINE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (program,) = Path(json.loads(done.stdout)["stages"]["lower"]["folder"]).glob("*.pte")
        return program

    return make
