"""Adapters from peft's folder to an answer, on the built-in model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from et_pipeline import manifest, tiny_assistant
from et_pipeline.bundle import adapters, open_bundle
from et_pipeline.errors import UserError
from tests.make_gguf_adapter import write_gguf_adapter

BIN = Path(sys.executable).parent
ASKED = {
    "Translate to French: The train arrives at eight o'clock.": "Le train arrive à huit heures.",
    "What is the capital of Italy?": "The capital of Italy is Rome.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
}
END = " Ciao!"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle whose program takes adapters."""
    folder = tmp_path_factory.mktemp("made")
    few = ["verify.items_per_task=1", "verify.sequences=6", "measure.rounds=1"]
    places = [f"paths.cache={folder / 'cache'}", f"paths.bundles={folder / 'bundles'}", "name=takes"]
    command = [BIN / "et-pipeline", "experiment=demo", "model.adapter_rank=6", *few, *places]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "bundles" / "takes"


@pytest.fixture(scope="module")
def peft(tmp_path_factory):
    """An adapter that ends each answer with a greeting, trained for seconds."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(tiny_assistant.CHECKPOINT / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(tiny_assistant.CHECKPOINT, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 3e-3)
    for _ in range(40):
        for message, answer in ASKED.items():
            prompt = f"<|begin|><|user|>{message}<|end|><|assistant|>"
            first = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
            ids = torch.tensor([tokenizer.encode(f"{prompt}{answer}{END}<|end|>", add_special_tokens=False).ids])
            labels = ids.clone()
            labels[:, :first] = -100
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("peft") / "greets"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "takes")


@pytest.fixture(scope="module")
def with_adapter(made, peft, tmp_path_factory):
    folder = shutil.copytree(made, tmp_path_factory.mktemp("with") / "takes")
    adapters.add(folder, peft, "greets", None, about="says goodbye")
    return folder


def command(*arguments, code=0, **options):
    ended = subprocess.run([BIN / "et-bundle", *arguments], capture_output=True, text=True, **options)
    assert ended.returncode == code, ended.stderr
    return ended


def test_the_base_stays_as_it_is_and_an_adapter_lies_beside_it(made, with_adapter):
    before, after = manifest.read(made), manifest.read(with_adapter)
    (adapter,) = after.adapters
    assert {name: file for name, file in after.files.items() if name != adapter.file} == before.files
    assert after.files[adapter.file].size == before.files["xnnpack.ptd"].size < before.files["xnnpack.pte"].size / 3
    assert (adapter.name, adapter.rank, before.main.adapter_rank) == ("greets", 4, 6)


def test_its_verdict_is_by_what_peft_computes(with_adapter):
    quality = manifest.read(with_adapter).adapters[0].quality
    assert quality.gate.passed
    assert quality.agreement.kl < 0.05
    assert quality.greedy.equal >= quality.greedy.prompts - 1


def test_a_loaded_program_answers_with_it_and_without_it(with_adapter):
    with open_bundle(with_adapter) as opened:
        for adapter, end in ((None, ""), ("greets", END), (None, ""), ("greets", END)):
            for message, answer in ASKED.items():
                said = "".join(opened.session(adapter=adapter).ask(message, 64)).strip()
                assert said == answer + end


def test_the_commands(with_adapter, peft):
    listed = command("adapters", "list", with_adapter).stdout
    assert "greets" in listed
    assert "says goodbye" in listed
    said = command("chat", with_adapter, "--adapter", "greets", input="What is the capital of Italy?\n").stdout
    assert said.strip() == "The capital of Italy is Rome. Ciao!"
    assert "sample answers of adapter greets" in command("verify", with_adapter).stdout
    assert "passed" in command("adapters", "verify", with_adapter, "greets", peft).stdout
    refused = command("chat", with_adapter, "--adapter", "greet", input="", code=2).stderr
    assert "has no adapter greet" in refused


def test_another_base_is_refused_by_its_hash(bundle, peft, tmp_path):
    other = shutil.copytree(tiny_assistant.CHECKPOINT, tmp_path / "other")
    (other / "SHA256SUMS").unlink(missing_ok=True)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    before = manifest.read(bundle)
    with pytest.raises(UserError, match=r"another base .* its model\.safetensors has SHA-256"):
        adapters.add(bundle, peft, "greets", other)
    assert manifest.read(bundle) == before


def test_a_folder_that_another_adapter_lies_in_is_refused(with_adapter, peft, tmp_path):
    other = shutil.copytree(peft, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / "adapter_model.safetensors")
    with pytest.raises(UserError, match="is not what the adapter greets was made from"):
        adapters.verify(with_adapter, manifest.read(with_adapter), "greets", other, None)


def test_a_name_stands_for_the_last_that_was_added(bundle, peft):
    adapters.add(bundle, peft, "greets", None)
    adapters.add(bundle, peft, "greets", None)
    assert len(manifest.read(bundle).adapters) == 1
    manifest.check_files(bundle, manifest.read(bundle))
    outside = bundle.parent / "out.ptd"
    outside.write_text("mine")
    for name in ("../out", "../../out", str(outside.with_suffix("")), "."):
        command("adapters", "add", bundle, peft, "--name", name, code=2)
    assert outside.read_text() == "mine"
    assert {each.name for each in bundle.parent.iterdir()} == {"out.ptd", "takes", "takes.lock"}


def test_two_that_are_added_at_once_are_both_there(bundle, peft):
    said = [BIN / "et-bundle", "adapters", "add", bundle, peft, "--name"]
    both = [subprocess.Popen([*said, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for name in "ab"]
    assert [each.wait() for each in both] == [0, 0]
    found = manifest.read(bundle)
    assert {each.name for each in found.adapters} == {"a", "b"}
    manifest.check_files(bundle, found)


def test_a_model_that_was_changed_takes_none(bundle, peft):
    step = manifest.Adaptation(step="prune_depth")
    found = manifest.read(bundle)
    changed = found.model_copy(update={"what": found.what.model_copy(update={"adaptation": [step]})})
    manifest.write(changed, bundle)
    with pytest.raises(UserError, match="is a model changed by prune_depth, and what an adapter would be"):
        adapters.add(bundle, peft, "greets", None)


def test_a_gguf_file_is_the_same_adapter(bundle, peft, tmp_path):
    config = json.loads((peft / "adapter_config.json").read_text())
    scaled = config["lora_alpha"] * config["r"] ** 0.5  # llama.cpp knows no rsLoRA: its files divide by the rank
    file = write_gguf_adapter(tmp_path / "greets.gguf", peft, tiny_assistant.CHECKPOINT, alpha=scaled)
    found = adapters.add(bundle, peft, "folder", None)
    command("adapters", "add", bundle, file)
    made = {each.name: each for each in manifest.read(bundle).adapters}["greets"]
    assert (bundle / made.file).read_bytes() == (bundle / found.file).read_bytes()
    assert made.source.keys() == {"greets.gguf"}
    renamed = file.rename(tmp_path / "renamed.gguf")
    assert "passed" in command("adapters", "verify", bundle, "greets", renamed).stdout
