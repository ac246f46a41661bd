"""make compare: the sweep over recipes."""

import pytest

from et_pipeline.cli import compare
from et_pipeline.report import compare_pictures
from et_pipeline.report.comparison import Comparison, figures, method


def test_every_recipe_of_the_sweep_composes(tmp_path):
    chosen = compare.recipes()
    every = compare.compose_all("tiny_assistant", ["recipe.calibration.tokens=64"], tmp_path, chosen)
    assert {name: each.recipe.name for name, each in every.items()} == {name: name for name in chosen}
    assert len({each.recipe.quantization for each in every.values()}) == len(chosen) == 31
    assert {each.recipe.calibration.tokens for each in every.values() if each.recipe.calibrated} == {64}
    methods = {method(each.recipe.model_dump()) for each in every.values()}
    assert methods == set(compare_pictures._METHODS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
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
    few = {name: compare.recipes()[name] for name in ("fp32", "8da4w-gptq-g32")}
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
    arguments = "tiny_assistant", few, tmp_path / "out", {name: chosen[name] for name in names}
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
        assert all(size > 0 for size in each.parts.values())
        assert each.parts["program"] < 0.3 * 10**6
    assert max(whole.layer_errors) < 1e-5
    assert whole.weight_errors == {}
    assert all(0.02 < error < 0.2 for error in four.weight_errors.values())
    assert all(0 < error < 0.5 for error in four.layer_errors)
    html = (tmp_path / "out" / "report.html").read_text()
    assert all(name in html for name in names)

    compare.compare(*arguments)
    assert "2 recipes in" in (said := capsys.readouterr().err)
    assert "2 of them from the cache" in said
