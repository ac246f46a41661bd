"""The pipeline as a function, for what no command line lets through."""

import json
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

from et_pipeline import CONF, manifest
from et_pipeline.pipeline import run
from et_pipeline.report.progress import Silent
from et_pipeline.settings import load_settings
from et_pipeline.stages import acquire
from tests.make_adapter import peft_logits, write_adapter


def test_the_gate_alone_stops_a_recipe_that_the_backend_computes_wrongly(make_checkpoint, tmp_path):
    """Asymmetric int4 is refused at composition; here it goes all the way, without an error, to a failed bundle."""
    checkpoint = make_checkpoint("llama", num_hidden_layers=1)
    overrides = [
        "model=custom",
        f"model.source={checkpoint}",
        "model.max_context=64",
        "model.prefill_chunk=32",
        "task=chat",
        "recipe.mapping=asymmetric",
        "verify.sequences=4",
        "measure.prompt_tokens=8",
        "measure.decode_tokens=4",
        "measure.rounds=1",
        f"paths.cache={tmp_path / 'cache'}",
        f"paths.bundles={tmp_path / 'bundles'}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = load_settings(compose("config", overrides=overrides))
    result = run([settings], Silent(), tmp_path)
    gate = manifest.read(result.bundle).quality.gate
    assert not gate.passed
    failed = {check.name for check in gate.checks if not check.passed}
    assert {f"cosine to quantized eager, {way}" for way in ("one_piece", "chunked", "token_by_token")} <= failed


SHORT = {"llama": ["model=custom", "task=chat"], "bert": ["model=custom_embedding"]}


@pytest.mark.parametrize("family", SHORT)
@pytest.mark.parametrize("way", ["until=acquire", "mode=plan"])
def test_a_context_that_nobody_typed_yields_to_the_models_own(family, way, make_checkpoint, command):
    folder = make_checkpoint(family, num_hidden_layers=1, max_position_embeddings=200)
    default = 1024 if family == "llama" else 256
    arguments = [*SHORT[family], f"model.source={folder}", way]
    code, out, err = command(*arguments)
    assert code == 0, err
    words = f"model.max_context=200, as this model has no more positions; {default} is the default"
    assert words in err + out
    code, out, err = command(*arguments, f"model.max_context={default}")
    assert (code, out) == (2, "")
    assert f"model.max_context={default} exceeds the 200 positions of this model; choose at most 200" in err
    code, out, err = command(*arguments, "measure.prompt_tokens=240")
    assert code == 2
    assert "model.max_context=200" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("family", "overrides", "sentence"),
    [
        ("bert", ["model=custom", "task=chat"], r"model\.task=text-generation, but .* \(bert\) is an encoder"),
        ("llama", ["model=custom_embedding"], r"model\.task=embedding, but .* \(llama\) generates text"),
    ],
)
def test_a_checkpoint_of_another_task_is_refused(family, overrides, sentence, make_checkpoint, command):
    folder = make_checkpoint(family, num_hidden_layers=1)
    lengths = ["model.max_context=128", "measure.prompt_tokens=8", "measure.decode_tokens=8"]
    code, _, err = command(*overrides, *lengths, f"model.source={folder}")
    assert code == 2
    assert re.search(sentence, err)


@pytest.mark.parametrize(
    ("backend", "recipe"),
    [("portable", "fp32"), pytest.param("vulkan", "int8_weight_only", marks=pytest.mark.slow)],
)
def test_an_encoder_for_a_backend_that_wants_padding(backend, recipe, make_checkpoint, command):
    source = f"model.source={make_checkpoint('bert', num_hidden_layers=1)}"
    arguments = ("model=custom_embedding", source, "model.max_context=128", f"backend={backend}", f"recipe={recipe}")
    code, out, err = command(*arguments, "verify.sequences=6", "format=json")
    assert code == 0, err
    folder = Path(json.loads(out)["bundle"])
    made = manifest.read(folder)
    program, checks = made.programs[0], {check.name for check in made.quality.gate.checks}
    assert (program.signature, program.prefill_chunk, made.embedding.speed) == ("tokens_mask", 128, [])
    assert program.executed == (backend == "portable") == bool(made.quality.embedding) == bool(made.embedding.samples)
    if program.executed:
        assert made.quality.embedding.quantized.min_cosine >= 1 - 1e-6
        assert made.quality.embedding.original.rank_correlation == pytest.approx(1, abs=1e-3)
    else:
        assert checks == {
            "difference of our reading of the original from transformers",
            "lowest cosine of quantized eager to original",
            "rank correlation of quantized eager with original",
        }


def test_the_content_of_a_text_is_part_of_its_stages_key(monkeypatch, command, tmp_path):
    """Stages that do nothing: what is made again when a text changes?"""
    cost = {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0}

    def run_stage(module, inputs, out, config, *_):
        if module != acquire.__name__:
            return {}, cost
        return acquire.run(inputs, out, lambda *_: None, **config).model_dump(), cost

    for module in ("acquiring", "steps"):
        monkeypatch.setattr(f"et_pipeline.pipeline.{module}.run_stage", run_stage)
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("Turn left at the station. " * 100)
    (tmp_path / "b.txt").write_text("Turn right at the bridge. " * 500)
    arguments = ["recipe=8da4w_gptq", f"recipe.calibration.source={texts}", "recipe.calibration.tokens=100"]
    arguments += [f"verify.text={tmp_path / 'b.txt'}", "until=verify", "format=json"]

    def reused():
        code, out, err = command(*arguments)
        assert code == 0, err
        return json.loads(out)["reused"]

    def edit(path):
        path.write_text(path.read_text() + "And then straight on.")

    reused()
    assert reused() == ["acquire", "quantize", "export", "lower", "evidence", "verify"]
    edit(tmp_path / "b.txt")
    assert reused() == ["acquire", "quantize", "export", "lower", "evidence"]
    edit(texts / "a.txt")  # what follows gets the same input again, because these stages make none
    assert reused() == ["acquire", "export", "lower", "evidence", "verify"]
    (texts / "more.md").write_text("One more.")
    assert reused() == ["acquire", "export", "lower", "evidence", "verify"]
    (texts / "no text.json").write_text("{}")
    assert reused() == ["acquire", "quantize", "export", "lower", "evidence", "verify"]


def test_an_adapter_alone_becomes_a_bundle_of_the_model_that_it_makes(make_checkpoint, tmp_path, command):
    base = make_checkpoint("llama", num_hidden_layers=1, initializer_range=0.05)
    adapter = write_adapter(base, tmp_path / "my-adapter", target_modules="all-linear")
    arguments = ["model=custom", f"model.adapter={adapter}", "task=chat", "recipe=8da8w", "verify.sequences=4"]
    arguments += ["model.max_context=128", "measure.rounds=1", "measure.prompt_tokens=8", "measure.decode_tokens=4"]
    code, out, err = command(*arguments, "format=json")
    assert code in (0, 3), err
    found = json.loads(out)
    made = manifest.read(Path(found["bundle"]))
    (step,) = made.what.adaptation
    assert (step.step, step.figures["rank"], step.figures["trained_on"]) == ("merge_lora", 8, base.name)
    assert step.files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert made.what.source.source == base.name
    assert made.what.settings["model"]["adapter"] == "my-adapter"
    assert str(tmp_path) not in (Path(found["bundle"]) / "manifest.json").read_text()
    assert "merge_lora" in made.stages
    assert made.quality.witness.name == "transformers"
    assert made.quality.witness.agreement.min_cosine > 0.9999
    merged = tmp_path / "cache" / "merge_lora"
    (folder,) = [path for path in merged.iterdir() if path.is_dir()]
    ids = torch.arange(2, 50)[None]
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
    theirs = peft_logits(base, adapter, ids)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_an_adapter_for_another_model_leaves_nothing_behind(make_checkpoint, tmp_path, command):
    adapter = write_adapter(make_checkpoint("llama", hidden_size=64), tmp_path / "adapter", target_modules=["q_proj"])
    base = make_checkpoint("llama", num_hidden_layers=1)
    code, _, err = command("model=custom", f"model.source={base}", f"model.adapter={adapter}", "task=chat")
    assert code == 2
    assert "says that it was trained on" in err
    assert not [path for path in (tmp_path / "cache" / "merge_lora").iterdir() if path.is_dir()]
