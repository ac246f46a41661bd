"""The forecast held against exports; what the figures have to be is in tests/test_forecast.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from et_pipeline.bench import forecast

COST = {"wall_s": 2.0, "cpu_s": 1.5, "peak_rss_bytes": 600_000_000}


@pytest.fixture
def pipeline(monkeypatch):
    """An et-pipeline that writes a program of as many bytes as it was called times; the list holds its caches."""
    caches = []

    def run(command, cwd, **settings):
        assert "experiment=forecast" in command
        assert f"paths.cache={cwd}" in command
        caches.append(cwd)
        folder = Path(cwd) / command[-2].removeprefix("model=") / command[-1].removeprefix("recipe=")
        folder.mkdir(parents=True)
        (folder / "model.pte").write_bytes(b"x" * len(caches))
        stages = {name: {**COST, "folder": str(folder)} for name in ("acquire", *forecast.STAGES)}
        return SimpleNamespace(returncode=0, stdout=json.dumps({"stages": stages}))

    monkeypatch.setattr(forecast.subprocess, "run", run)
    return caches


def test_each_pair_is_kept_at_once_and_replaces_what_was_known_of_it(pipeline):
    kept = []
    pairs = [("smollm2_135m", "8da4w"), ("smollm2_135m", "fp32"), ("qwen3_0_6b", "8da4w")]
    known = [{"model": "smollm2_135m", "recipe": "fp32"}, {"model": "other", "recipe": "fp32"}]
    forecast.measure(pairs, known, kept.append)
    assert [len(each) for each in kept] == [3, 3, 4]
    assert [(each["model"], each["recipe"]) for each in kept[-1]] == [("other", "fp32"), *pairs]
    assert [each["pte_bytes"] for each in kept[-1][1:]] == [1, 2, 3]
    assert kept[-1][1]["stages"] == dict.fromkeys(forecast.STAGES, COST)
    assert pipeline[0] == pipeline[1] != pipeline[2]
    assert not any(Path(cache).exists() for cache in pipeline)


def test_a_run_that_fails_ends_it(monkeypatch):
    monkeypatch.setattr(forecast.subprocess, "run", lambda *args, **settings: SimpleNamespace(returncode=2, stdout=""))
    with pytest.raises(SystemExit) as ended:
        forecast.measure(forecast.PAIRS, [], pytest.fail)
    assert ended.value.code == 2


def test_a_comparison_takes_the_largest_stage_and_all_the_time():
    stages = {name: {**COST, "peak_rss_bytes": peak} for peak, name in enumerate(forecast.STAGES, start=10)}
    (found,) = forecast.compare([{"model": "smollm2_135m", "recipe": "8da4w", "pte_bytes": 7, "stages": stages}])
    assert (found.recipe, found.pte[1], found.peak[1], found.cpu[1]) == ("8da4w-g32", 7, 12, 4.5)
    assert found.peak[0] > found.pte[0] > 10**6
