"""`sweep.memory_gb`: what stages that run at once may take together."""

import multiprocessing
import os
import signal
import time

import pytest
from hydra import compose, initialize_config_dir

from et_pipeline import CONF
from et_pipeline.architecture import read_architecture
from et_pipeline.errors import UserError
from et_pipeline.forecast import peak_bytes
from et_pipeline.pipeline import check
from et_pipeline.pipeline.memory import held
from et_pipeline.settings import load_settings

FORK = multiprocessing.get_context("fork")


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_settings(compose("config", overrides=list(overrides)))


def _work(ledger, wanted, budget, spans):
    with held(ledger, wanted, budget):
        began = time.monotonic()
        time.sleep(0.3)
        spans.put((began, time.monotonic(), wanted))


def _spans(tmp_path, wanted, budget):
    """When processes held what they wanted."""
    spans = FORK.Queue()
    processes = [FORK.Process(target=_work, args=(tmp_path, each, budget, spans)) for each in wanted]
    for process in processes:
        process.start()
    found = [spans.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    return found


def _most(spans):
    """The most that was held at any moment."""
    return max(sum(each for since, until, each in spans if since <= moment < until) for moment, _, _ in spans)


def test_processes_stay_within_the_budget(tmp_path):
    assert _most(_spans(tmp_path, [3, 3, 3, 3, 4], 7)) in (6, 7)


def test_what_exceeds_the_budget_runs_alone(tmp_path):
    spans = _spans(tmp_path, [9, 1, 1], 5)
    assert len(spans) == 3
    assert _most(spans) in (9, 2)
    (large,) = [each for each in spans if each[2] == 9]
    assert all(until <= large[0] or since >= large[1] for since, until, wanted in spans if wanted == 1)


def _hold(ledger, ready):
    with held(ledger, 5, 5):
        ready.set()
        time.sleep(60)


def test_a_killed_process_holds_nothing(tmp_path):
    ready = FORK.Event()
    holder = FORK.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(10)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    began = time.monotonic()
    with held(tmp_path, 5, 5):
        assert time.monotonic() - began < 5


def test_a_stage_claims_what_is_forecast():
    chosen = settings("model=llama2_7b", "recipe=8da4w")
    known = read_architecture(chosen.model.architecture, "config.json")
    peaks = {stage: peak_bytes(stage, known, chosen) for stage in ("quantize", "lower", "verify", "measure")}
    assert peaks["quantize"] < peaks["lower"] <= peaks["verify"] == peaks["measure"]
    assert 3e9 < peaks["lower"] < 8e9


@pytest.mark.parametrize("value", ["0", "-1", "much"])
def test_a_budget_is_a_positive_number(value):
    with pytest.raises(UserError, match=r"sweep\.memory_gb="):
        settings(f"sweep.memory_gb={value}")


def test_a_budget_needs_a_forecast():
    with pytest.raises(UserError, match=r"sweep\.memory_gb=4\.0 goes by the forecast of backend=xnnpack"):
        check(settings("sweep.memory_gb=4.0", "backend=portable", "recipe=fp32"))
