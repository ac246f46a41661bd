"""Sweeps by Hydra's launchers: in processes, on Slurm, on Ray. make test-sweeps installs them."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cluster
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from et_pipeline.cli import main; main()"]
NOT_HERE = "{} is not installed: make test-sweeps installs it"


def needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=NOT_HERE.format(module))


def start(folder, *arguments, **variables):
    """A sweep in a session of its own, so that a test can end it with all that it has started."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "ET_PIPELINE_CACHE": str(folder / "cache"), **variables}
    return subprocess.Popen(
        [*PROGRAM, "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sweep(folder, *arguments, **variables):
    process = start(folder, *arguments, **variables)
    out, err = process.communicate()
    return process.returncode, out, err


def made(documents):
    """Folders of all stages that jobs did themselves."""
    return [each["folder"] for job in documents for name, each in job["stages"].items() if name not in job["reused"]]


def check_sweep(folder, *launcher, **variables):
    """Three jobs with two quantizations between them and a mistake: each stage is done once, the mistake is told."""
    keys = ("until=quantize", "format=json", "recipe.group_size=32,48", "measure.rounds=1,2", "sweep.memory_gb=1")
    code, out, err = sweep(folder, *launcher, *keys, **variables)
    assert code == 2, err
    assert "recipe.group_size=48 and recipe.mapping=symmetric_no_clipping_error does not run" in err
    documents = json.loads(out)
    assert len(documents) == 2
    assert sorted(Path(each).parent.name for each in made(documents)) == ["acquire", "quantize"]
    assert len(list((folder / "cache").glob("*/*/entry.json"))) == 2
    assert [each.name for each in (folder / "cache" / "memory").glob("*/*")] == ["lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "basic",
        pytest.param("joblib", marks=needs("hydra_plugins.hydra_joblib_launcher")),
        pytest.param("ray", marks=[needs("hydra_plugins.hydra_ray_launcher"), pytest.mark.ray]),
    ],
)
def test_jobs_share_what_they_do_and_a_mistake_ends_none_but_its_own(tmp_path, launcher):
    check_sweep(tmp_path, f"hydra/launcher={launcher}")


@pytest.mark.slow
@pytest.mark.slurm
@needs("hydra_plugins.hydra_submitit_launcher")
@pytest.mark.skipif(cluster.missing() is not None, reason=str(cluster.missing()))
def test_jobs_on_slurm_likewise(tmp_path):
    (tmp_path / "slurm").mkdir()
    with cluster.slurm(tmp_path / "slurm") as variables:
        launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
        check_sweep(tmp_path, *launcher, **variables)
        asked = ["scontrol", "--oneliner", "show", "job"]
        jobs = subprocess.run(asked, env={**os.environ, **variables}, capture_output=True, text=True, check=True).stdout
        assert jobs.count("JobName=et-pipeline") == 4, jobs  # the last one may not have been cleared away yet


@needs("hydra_plugins.hydra_joblib_launcher")
def test_what_processes_forecast_comes_back(tmp_path):
    code, out, err = sweep(tmp_path, "hydra/launcher=joblib", "mode=plan", "format=json", "recipe=8da4w,fp32,8da8w")
    assert code == 0, err
    assert [each["recipe"] for each in json.loads(out)] == ["8da4w-g32", "fp32", "8da8w"]
    assert not list(tmp_path.rglob("*.pickle"))


@pytest.mark.slow
@needs("hydra_plugins.hydra_joblib_launcher")
@pytest.mark.parametrize("kill", [os.killpg, os.kill])
def test_a_killed_sweep_goes_on(tmp_path, kill):
    """SIGKILL to all its processes, or to the first alone; the same command does what was not done, and no more."""
    command = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "until=export", "format=json", "recipe=8da4w,fp32")
    process = start(tmp_path, *command)
    entries = tmp_path / "cache"
    while not list(entries.glob("quantize/*/entry.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)  # until nobody holds its output any more
    had = {str(path.parent) for path in entries.glob("*/*/entry.json") if path.parent.suffix != ".tmp"}
    code, out, err = sweep(tmp_path, *command)
    assert code == 0, err
    documents = json.loads(out)
    done = made(documents)
    assert had
    assert not had & set(done)
    assert len(done) == len(set(done))
    assert had | set(done) == {each["folder"] for job in documents for each in job["stages"].values()}
    assert not list(entries.rglob("*.tmp"))


@pytest.mark.parametrize(("launcher", "instead"), [("joblib", r"et-pipeline\[sweeps\]"), ("ray", "--no-deps")])
def test_a_launcher_that_is_not_installed_is_named(tmp_path, launcher, instead):
    if find_spec(f"hydra_plugins.hydra_{launcher}_launcher"):
        pytest.skip(f"hydra/launcher={launcher} is installed")
    code, out, err = sweep(tmp_path, f"hydra/launcher={launcher}", "mode=plan")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"hydra/launcher={launcher} is not installed: pip install" in err
    assert instead.replace("\\", "") in err
