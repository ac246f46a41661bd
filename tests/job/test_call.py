"""What Python code asks for comes through as on the command line; whole runs are in test_notebook.py."""

import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import et_pipeline
from et_pipeline import job, pipeline


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    """The settings of what `run` was asked for, instead of a run."""
    seen = []
    monkeypatch.setattr(job, "_run", lambda settings, outputs, *_: seen.extend(settings) or pipeline.Result())
    return seen


def test_importing_the_package_is_light():
    code = (
        "import sys, time; before = time.process_time(); import et_pipeline; took = time.process_time() - before\n"
        "heavy = {'torch', 'hydra', 'numpy', 'pydantic', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert took < 0.3, took"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plans_of_one_process_know_nothing_of_each_other(tmp_path):
    first = et_pipeline.plan(model="llama3_2_1b", device="galaxy_s22")
    second = et_pipeline.plan(["recipe=int8_weight_only"], model="smollm2_135m")
    again = et_pipeline.plan(model="llama3_2_1b", device="galaxy_s22")
    assert first.chosen.device == "Samsung Galaxy S22"
    assert second.chosen.recipe == "int8_weight_only"
    assert second.chosen.parameters < first.chosen.parameters
    assert again == first
    assert {plan.recipe for plan in first.plans} > {"8da4w-g32", "int8_weight_only"}
    assert list(tmp_path.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized()


def test_a_callers_own_hydra_stays_as_it_is(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        own = hydra.compose("mine", return_hydra_config=True)
        HydraConfig.instance().set_config(own)
        et_pipeline.plan()
        assert hydra.compose("mine", ["a=2"]).a == 2
        assert HydraConfig.get().job.config_name == "mine"
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    "value", ["plain", "with 'quotes' and \"others\"", "back\\slash\\", "${not.read}", "two\nlines", "a=b,c", "", "ü👋"]
)
def test_a_text_is_taken_as_it_is(asked, value):
    et_pipeline.run(**{"task.system_prompt": value})
    assert asked[0].task.system_prompt == value


def test_values_of_other_kinds(asked):
    et_pipeline.run(
        backend=["xnnpack", "portable"],
        recipe=["8da4w", "fp32"],
        seed=3,
        until="lower",
        **{
            "paths.bundles": Path("some where"),
            "verify.text": None,
            "task.use_cases": {"chat": {"title": "Chat", "template": "{text}", "max_new_tokens": 9}},
            "recipe.gate.max_kl_original": 0.5,
        },
    )
    assert [(each.backend.name, each.recipe.scheme) for each in asked] == [("xnnpack", "8da4w"), ("portable", "fp32")]
    first = asked[0]
    assert (first.seed, first.until, first.mode, first.verify.text) == (3, "lower", "run", None)
    assert first.paths.bundles == Path("some where")
    assert first.task.use_cases["chat"].max_new_tokens == 9
    assert first.recipe.gate.max_kl_original == 0.5
    et_pipeline.run(**{"backend.external_weights": True})
    assert asked[-1].backend.external_weights is True


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipe": "8da5w"}, "recipe=8da5w does not exist"),
        ({"recipe.grup_size": 64}, "recipe.grup_size is not a setting"),
        ({"model": "custom"}, "has no value"),
        ({"recipe.group_size": 48}, "recipe.group_size=48"),
        ({"backend": "portable"}, "use recipe=fp32"),
        ({"device": "all"}, "device=all is for mode=plan"),
        pytest.param(
            {"paths.cache": "/dev/null/x"}, "cannot use /dev/null", marks=pytest.mark.linux("which has /dev/null")
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, settings, sentence):
    with pytest.raises(et_pipeline.UserError) as told:
        et_pipeline.run(**settings)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


def test_an_override_alone_must_stand_in_a_list():
    with pytest.raises(et_pipeline.UserError, match=r"must stand in a list: \['recipe=fp32'\]"):
        et_pipeline.plan("recipe=fp32")


def test_several_plans_are_asked_for_one_by_one():
    with pytest.raises(et_pipeline.UserError, match="these are 2 plans"):
        et_pipeline.plan(device=["pixel_8", "pixel_9"])
