"""What is done to a model before it is quantized, through the command: the chain, its figures, and a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = (
    "model=custom",
    "task=chat",
    "model.max_context=128",
    "measure.prompt_tokens=8",
    "measure.decode_tokens=4",
    "verify.sequences=4",
    "adapt.text.sequences=24",
    "adapt.text.length=32",
    "adapt.distillation.steps=6",
    "adapt.distillation.sequences=4",
    "adapt.qat_training.steps=4",
    "adapt.qat_training.sequences=4",
)


@pytest.fixture(scope="module")
def source(make_checkpoint):
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "initializer_range": 0.1}
    return make_checkpoint("llama", tie_word_embeddings=True, **shape)


def entry(tmp_path, stage):
    (folder,) = [path for path in (tmp_path / "cache" / stage).iterdir() if path.is_dir()]
    return folder, json.loads((folder / "entry.json").read_text())["figures"]


def test_a_chain_ends_in_quantized_weights_of_the_smaller_model(source, tmp_path, command):
    chain = ("adapt=[prune_depth,prune_width,qat]", "adapt.size=0.6", f"model.source={source}", "until=quantize")
    code, _, err = command(*SMALL, *chain)
    assert code == 0, err
    original = AutoModelForCausalLM.from_pretrained(source)
    before = original.num_parameters()
    depth, width, learned = (entry(tmp_path, stage)[1] for stage in ("prune_depth", "prune_width", "distill"))
    assert (depth["before"], depth["after"], width["before"]) == (before, width["before"], depth["after"])
    assert width["after"] <= 0.6 * before + 1
    assert width["after"] > 0.4 * before
    assert min(depth["kl"], width["kl"]) > 0
    assert learned["original_perplexity"] == pytest.approx(depth["original_perplexity"])
    folder, _ = entry(tmp_path, "distill")
    config = AutoConfig.from_pretrained(folder)
    assert config.num_hidden_layers < 4
    assert config.intermediate_size < 256
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() == width["after"]
    (quantized,) = [path for path in (tmp_path / "cache" / "quantize").iterdir() if path.is_dir()]
    figures = json.loads((quantized / "entry.json").read_text())["figures"]["qat"]
    assert figures["steps"] == 4
    assert figures["after"] <= figures["before"]
    assert not list((tmp_path / "cache").glob("*/*.work"))
    code, _, err = command(*SMALL, *chain)
    assert code == 0
    for stage in ("prune_depth", "prune_width", "distill", "round", "quantize"):
        assert any(line.split()[:2] == [stage, "reused"] for line in err.splitlines()), err


def test_pruning_alone_if_it_is_asked_for(source, tmp_path, command):
    code, _, err = command(
        *SMALL, "adapt=prune_width", "adapt.distill=false", f"model.source={source}", "until=acquire"
    )
    assert code == 0, err
    assert not (tmp_path / "cache" / "distill").exists()
    assert entry(tmp_path, "prune_width")[1]["kl"] > 0


def test_text_of_the_users_own(source, tmp_path, command):
    text = tmp_path / "text.txt"
    text.write_text("A sentence of the user's, again and again. " * 40)
    given = ("adapt=prune_width", f"adapt.text.source={text}", f"model.source={source}", "until=acquire")
    code, _, err = command(*SMALL, *given)
    assert code == 0, err
    assert not (tmp_path / "cache" / "training").exists()
    code, _, err = command(*SMALL, *given, "adapt.text.sequences=1000")
    assert code == 2
    assert "adapt.text.sequences x adapt.text.length=32000 asks for more" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("adapt=merge_lora",), "adapt.merge_lora=true merges model.adapter, which is null"),
        (("adapt=distill",), "learns from the model itself where nothing is pruned"),
        (("adapt=distill", "adapt.teacher=nowhere/at-all"), "adapt.teacher=nowhere/at-all is not to be had"),
        (("adapt=prune_width", "adapt.distill=false", "adapt.teacher=x/y"), "adapt.teacher=x/y is for adapt.distill"),
        (("adapt=qat", "recipe=8da8w"), "adapt.qat=true trains integers of 4 bits, and recipe.scheme=8da8w has none"),
        (("adapt=[qat,prune]",), "adapt=prune does not exist"),
        (
            ("adapt=prune_width", "adapt.size=1"),
            "adapt.size=1 is not valid: expected a share between 0 and 1, or device",
        ),
        (("adapt=prune_width", "adapt.size=Device"), 'adapt.size="Device" is not valid: expected a share'),
        (("adapt=[lora,prune_depth]",), "model.adapter_rank=16 is for adapters of the model as it is"),
        (("adapt=prune_width", "adapt.size=device", "device=all", "mode=plan"), "device=all is every one; choose one"),
        (("adapt=prune_width", "adapt.size=0.2"), "cannot be reached by narrower layers"),
        (("adapt=prune_width", "adapt.text.source=gone.txt"), "gone.txt cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, sentence, source, command, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = command(*SMALL, f"model.source={source}", "until=quantize", *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_embeddings_and_the_npu_are_refused(make_checkpoint, command):
    bert = make_checkpoint("bert", num_hidden_layers=1)
    lengths = ("model.max_context=128", "measure.prompt_tokens=8", "measure.decode_tokens=8")
    code, _, err = command("model=custom_embedding", f"model.source={bert}", "adapt=prune_width", *lengths)
    assert code == 2
    assert "adapt.prune_width=true compares answers, and model.task=embedding has none" in err


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_the_same(source, tmp_path):
    """The weights are those of a run that was not killed."""
    steps = ("adapt=prune_width", "adapt.distillation.steps=120", f"model.source={source}", "until=acquire")

    def start(cache):
        code = "from et_pipeline.cli import main; main()"
        command = [sys.executable, "-c", code, *SMALL, *steps, f"paths.cache={tmp_path / cache}"]
        return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, process_group=0)

    assert start("whole").wait() == 0
    killed = start("killed")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed" / "distill").glob("*.work/checkpoint-*/whole")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not [path for path in (tmp_path / "killed" / "distill").iterdir() if (path / "entry.json").is_file()]
    assert start("killed").wait() == 0

    def weights(cache) -> bytes:
        (path,) = (tmp_path / cache / "distill").glob("*/model.safetensors")
        return Path(path).read_bytes()

    assert weights("whole") == weights("killed")
