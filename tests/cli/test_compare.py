"""make compare: the sweep over recipes."""

import pytest

from et_pipeline import tiny_assistant
from et_pipeline.cli import compare
from et_pipeline.errors import UserError
from et_pipeline.report import compare_pictures
from et_pipeline.report.comparison import ADAPTED, Comparison, figures, method, rounding


def test_every_recipe_of_the_sweep_composes(tmp_path):
    chosen = compare.recipes()
    every = compare.compose_all("tiny_assistant", ["recipe.calibration.tokens=64"], tmp_path, chosen)
    assert {name: each.recipe.name for name, each in every.items()} == {name: name for name in chosen}
    assert len({each.recipe.quantization for each in every.values()}) == len(chosen) == 31
    assert {each.recipe.calibration.tokens for each in every.values() if each.recipe.calibrated} == {64}
    methods = {rounding(each.recipe.model_dump()) for each in every.values()} | {ADAPTED}
    assert methods == set(compare_pictures._METHODS)


def test_adapted_forms_stand_beside_the_recipes(tmp_path):
    chosen = compare.recipes() | compare.adapted("tiny_assistant", ["prune_width", "prune_depth,qat"])
    every = compare.compose_all("tiny_assistant", [], tmp_path, chosen)
    assert len(every) == 31 + 2 + 1
    cut, both = every["prune_width-8da8w"], every["prune_depth-qat-8da4w-rotation-gptq-g32"]
    assert (cut.adapt.prunes, cut.adapt.qat, cut.recipe.scheme) == (["prune_width"], False, "8da8w")
    assert (both.adapt.prunes, both.adapt.qat, both.recipe.algorithm) == (["prune_depth"], True, "gptq")
    assert len({each.name for each in every.values()}) == len(every)  # a bundle each
    assert not every["8da8w"].adapt.prunes
    assert compare.adapted("x", ["qat, prune_width", "prune_width,qat"]) == compare.adapted(
        "x", ["prune_width,qat,qat"]
    )
    for odd in ("", ",", "none", "lora", "[qat]", "a/b"):
        with pytest.raises(
            UserError, match="steps are merge_lora, prune_depth, prune_width, distill, qat, with commas"
        ):
            compare.adapted("x", [odd])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["tiny_assistant", "adapt=[prune_width,qat]"],
            "make compare chooses itself; say --adapt prune_width,qat",
        ),
        (["tiny_assistant", "--adapt", "prune_with"], "--adapt 'prune_with' has 'prune_with'; steps are merge_lora"),
        (
            ["tiny_assistant", "--adapt", "prune_width", "verify.text=builtin:tiny_assistant"],
            "does not go with --adapt",
        ),
        (["no_such_model"], "model=no_such_model does not exist"),
        (["tiny_assistant", "recipe=8da8w"], "recipe=8da8w is what make compare chooses itself; leave it out"),
        (["tiny_assistant", "recipe.group_size=64"], "recipe.group_size=64 is what make compare chooses"),
        (["tiny_assistant", "verify.no_such=1"], "verify.no_such is not a setting"),
        (["minilm"], "model=minilm embeds texts, and make compare is for models that answer"),
        (["tiny_assistant", "recipe.calibration.source=absent.txt"], "absent.txt cannot be read"),
        (["tiny_assistant", "verify.text=absent.txt"], "absent.txt cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))
    few = {name: compare.recipes()[name] for name in ("fp32", "8da4w-gptq-g32", *compare.ADAPTED)}
    monkeypatch.setattr(compare, "recipes", lambda: few)
    with pytest.raises(SystemExit) as ended:
        compare.main([*arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_on_the_built_in_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))
    chosen = compare.recipes()
    names = ("fp32", "8da4w-g32", "8da4w-g128")
    few = ["verify.sequences=4", "verify.items_per_task=2", "verify.text=builtin:tiny_assistant"]
    few += ["verify.text_tokens=64", "measure.rounds=1", "recipe.gate.max_kl_original=0.0"]
    few += [f"model.source={tiny_assistant.CHECKPOINT}"]  # of 512 positions, fewer than custom's default
    arguments = "custom", few, tmp_path / "out", {name: chosen[name] for name in names}
    compare.compare(*arguments)
    assert "0 of them from the cache" in capsys.readouterr().err
    path = tmp_path / "out" / "compare.json"
    found = Comparison.model_validate_json(path.read_bytes())
    by_name = {each.name: each for each in found.outcomes}
    assert list(by_name) == list(names)
    assert "recipe.group_size=128 does not divide" in by_name["8da4w-g128"].refused
    four, whole = by_name["8da4w-g32"], by_name["fp32"]
    assert not four.manifest.quality.gate.passed  # and the sweep went on
    assert sum(four.parts.values()) == figures(four).size
    for each in (four, whole):
        assert all(size > 0 for part, size in each.parts.items() if part != "head" or each is four)
        assert each.parts["program"] < 0.3 * 10**6
    assert max(whole.layer_errors) < 1e-5
    assert whole.weight_errors == {}
    assert all(0.02 < error < 0.2 for error in four.weight_errors.values())
    assert all(0 < error < 0.5 for error in four.layer_errors)
    html = (tmp_path / "out" / "report.html").read_text()
    assert all(name in html for name in names)
    bundles = (tmp_path / "out" / "bundles.html").read_text(encoding="utf-8")
    assert [name for name in names if f'id="bundle/{name}"' in bundles] == ["fp32", "8da4w-g32"]

    compare.compare(*arguments)
    assert "2 recipes in" in (said := capsys.readouterr().err)
    assert "2 of them from the cache" in said


@pytest.mark.slow
def test_a_sweep_with_adapted_forms(tmp_path, monkeypatch):
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))
    few = ["verify.sequences=6", "verify.items_per_task=2", "measure.rounds=1", "adapt.text.sequences=48"]
    few += ["adapt.text.length=48", "adapt.distillation.steps=4", "adapt.qat_training.steps=4", "adapt.size=0.8"]
    rows = compare.adapted("tiny_assistant", ["prune_depth", "qat"])
    names = ("prune_depth-8da8w", "qat-8da4w-rotation-gptq-g32")
    chosen = {
        "fp32": compare.recipes()["fp32"],
        "8da8w": compare.recipes()["8da8w"],
        **{name: rows[name] for name in names},
    }
    compare.compare("tiny_assistant", few, tmp_path / "out", chosen)
    found = Comparison.model_validate_json((tmp_path / "out" / "compare.json").read_bytes())
    by_name = {each.name: each for each in found.outcomes}
    assert not [each.refused for each in found.outcomes if each.refused]
    cut, trained = (by_name[name] for name in names)
    assert [method(each) for each in (cut, trained, by_name["8da8w"])] == [ADAPTED, ADAPTED, "8 bits"]
    assert figures(cut).size < 0.9 * figures(by_name["8da8w"]).size
    assert figures(cut).kl > 10 * figures(by_name["8da8w"]).kl  # from the whole model, not from what was cut
    assert len(cut.layer_errors) < len(trained.layer_errors)
    html = (tmp_path / "out" / "report.html").read_text()
    assert all(name in html for name in names)
