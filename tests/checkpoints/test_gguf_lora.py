"""Adapters in GGUF files: peft says what they do, and llama.cpp that the files are what it reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from et_pipeline import tiny_assistant
from et_pipeline.adaptation.merging import merge
from et_pipeline.checkpoints.adapter import Adapter, prepare
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.gguf import GgufFile, lora, run
from et_pipeline.checkpoints.place import Place
from et_pipeline.errors import UserError
from et_pipeline.settings import Checkpoint
from tests.make_adapter import peft_logits, write_adapter
from tests.make_gguf import write_gguf
from tests.make_gguf_adapter import write_gguf_adapter

IDS = [5, 77, 120, 40, 33, 9, 250, 18]
DOWN = "model.layers.1.mlp.down_proj"

# In a process of its own: it aborts at what it does not like.
ASK = """
import json, sys
import xllamacpp
base, adapter, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = base, 256, 1, False
params.cpuparams.n_threads, params.verbosity = 1, -1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
said = xllamacpp.Server(params).handle_completions({
    "prompt": ids, "n_predict": 1, "temperature": -1.0, "n_probs": 50, "cache_prompt": False
})
likeliest = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
print("ANSWER", json.dumps({each["id"]: each["logprob"] for each in likeliest}))
"""


def merged_logits(base, file, tmp_path):
    """What the merged checkpoint computes."""
    for name in ("peft-form", "merged"):
        (tmp_path / name).mkdir()
    found = Adapter(file).in_folder(Folder(base), tmp_path / "peft-form")
    figures = merge(base, found, tmp_path / "merged", lambda *_: None)
    assert figures["files"].keys() == {file.name}
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(
            torch.tensor([IDS])
        ).logits


@pytest.fixture
def base(make_checkpoint):
    return make_checkpoint("llama", num_key_value_heads=2)


@pytest.mark.parametrize(
    ("family", "architecture", "settings"),
    [
        ("llama", "llama", {"target_modules": "all-linear", "rank_pattern": {DOWN: 4}}),
        ("mistral", "llama", {"target_modules": ["q_proj", "k_proj"]}),
        ("qwen2", "qwen2", {"target_modules": "all-linear"}),
        ("qwen3", "qwen3", {"target_modules": "all-linear"}),
        ("phi3", "phi3", {"target_modules": "all-linear"}),
        ("gemma3_text", "gemma3", {"target_modules": ["k_proj", "o_proj", "embed_tokens"]}),
        ("llama", "llama", {"target_modules": ["embed_tokens", "lm_head", "up_proj"]}),
    ],
)
def test_the_merged_model_computes_what_peft_does(make_checkpoint, tmp_path, family, architecture, settings):
    checkpoint = make_checkpoint(family)
    adapter = write_adapter(checkpoint, tmp_path / "adapter", **settings)
    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, checkpoint, architecture)
    found, right = merged_logits(checkpoint, file, tmp_path), peft_logits(checkpoint, adapter, torch.tensor([IDS]))
    assert (found - right).abs().max() <= 1e-5 * right.abs().max()


def test_llama_cpp_reads_the_file_as_we_do(tmp_path):
    pytest.importorskip("xllamacpp")
    checkpoint = tiny_assistant.CHECKPOINT
    model = write_gguf(tmp_path / "base.gguf", checkpoint)
    settings = {"target_modules": "all-linear", "rank_pattern": {DOWN: 4}}
    adapter = write_adapter(checkpoint, tmp_path / "adapter", **settings)
    for number, changes in enumerate(({}, {"alpha": 0.0}, {"kind": Kind.F16})):
        (tmp_path / str(number)).mkdir()
        file = write_gguf_adapter(tmp_path / f"{number}.gguf", adapter, checkpoint, **changes)
        ours = merged_logits(checkpoint, file, tmp_path / str(number))[0, -1].log_softmax(-1)
        said = subprocess.run(
            [sys.executable, "-c", ASK, model, file, json.dumps(IDS)], capture_output=True, text=True, check=True
        ).stdout
        theirs = json.loads(said.rpartition("ANSWER")[2])
        assert len(theirs) == 50
        assert all(abs(ours[int(token)] - value) < 2e-3 for token, value in theirs.items())


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0])
def test_types_of_the_parts(base, tmp_path, kind):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["gate_proj"])
    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, base, kind=kind)
    lora.write_peft(file, Folder(base), tmp_path)
    theirs, ours = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path))
    assert theirs.keys() == ours.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 0.01 * theirs[name].abs().max() for name in theirs)


def test_a_norm_that_was_trained_too(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    norm = np.linspace(0.5, 2, Folder(base).config["hidden_size"], dtype=np.float32)
    file = write_gguf_adapter(
        tmp_path / "adapter.gguf", adapter, base, edit=lambda tensors: tensors.update({"blk.1.attn_norm.weight": norm})
    )
    merged_logits(base, file, tmp_path)
    found = load_file(tmp_path / "merged" / "model.safetensors")["model.layers.1.input_layernorm.weight"]
    assert np.array_equal(found.float().numpy(), norm)


def test_the_base_that_a_file_names(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])

    def names(writer):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, "Some Model")
        writer.add_base_model_repo_url(0, "https://huggingface.co/someone/some-model")

    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, base, extra=names)
    assert lora.base_of(file) == "someone/some-model"
    place = Place(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"adapter\.gguf names someone/some-model as its base, which is not to be had"):
        prepare(Checkpoint(source=str(file), adapter=str(file)), 0, place)
    found = prepare(Checkpoint(source=str(base), adapter=str(file)), 0, place)
    assert (found.folder, found.adapter.path) == (base, file)
    nameless = write_gguf_adapter(tmp_path / "nameless.gguf", adapter, base)
    with pytest.raises(UserError, match=r"nameless\.gguf does not name its base model; say it: model\.source="):
        prepare(Checkpoint(source=str(nameless), adapter=str(nameless)), 0, place)


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


Q = "blk.0.attn_q.weight.lora_"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (without(f"{Q}a"), r"lacks blk\.0\.attn_q\.weight\.lora_a"),
        (without(f"{Q}b"), r"lacks blk\.0\.attn_q\.weight\.lora_b"),
        (changed(f"{Q}a", lambda a: a[:3]), r"parts \[3, 128\] and \[128, 8\], whose ranks differ"),
        (changed(f"{Q}a", lambda a: a * np.float32("nan")), "not finite"),
        (lambda tensors: tensors.update({"blk.9.attn_q.weight.lora_a": tensors[f"{Q}a"]}), r"changes blk\.9\.attn_q"),
        (lambda tensors: tensors.update({"blk.0.attn_q.bias": tensors[f"{Q}a"][0]}), r"changes blk\.0\.attn_q\.bias"),
        (lambda tensors: tensors.update({"token_embd.weight": tensors[f"{Q}a"]}), "holds token_embd.weight whole, and"),
        (changed(f"{Q}a", lambda a: a.astype(np.int32)), "of type I32, which the gguf library cannot decode"),
        (lambda tensors: tensors.clear(), "holds no adapter"),
    ],
)
def test_files_that_are_refused(base, tmp_path, edit, says):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, base, edit=edit)
    with pytest.raises(UserError, match=says):
        lora.write_peft(file, Folder(base), tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()


def test_what_is_no_lora_adapter(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(UserError, match="does not exist"):
        Adapter(tmp_path / "gone.gguf").check()
    model = write_gguf(tmp_path / "model.gguf", tiny_assistant.CHECKPOINT)
    with pytest.raises(UserError, match=r"holds a model and no adapter: point model\.source at it"):
        Adapter(model).check()
    called = write_gguf_adapter(
        tmp_path / "called.gguf",
        adapter,
        base,
        extra=lambda writer: writer.add_array("adapter.alora.invocation_tokens", [3]),
    )
    with pytest.raises(UserError, match=r"adapter\.alora\.invocation_tokens=\[3\], which this version does not know"):
        Adapter(called).check()
    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, base)
    with pytest.raises(UserError, match=r"holds an adapter and no model: give it as model\.adapter="):
        run({}, tmp_path, lambda *_: None, GgufFile(path=str(file)))
    content = file.read_bytes()
    for length in (3, 40, len(content) // 2, len(content) - 64):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"damaged or cut short|not a GGUF file"):
            lora.write_peft(file, Folder(base), tmp_path)


def test_an_adapter_of_another_family_or_size(base, make_checkpoint, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    file = write_gguf_adapter(tmp_path / "adapter.gguf", adapter, base)
    with pytest.raises(UserError, match=r"is for a model of architecture llama, and .* has model_type=qwen3"):
        lora.write_peft(file, Folder(make_checkpoint("qwen3")), tmp_path)
    with pytest.raises(UserError, match=rf"{file} does not fit the model: it changes blk.0.attn_q.weight of 128 x"):
        lora.write_peft(file, Folder(make_checkpoint("llama", hidden_size=256)), tmp_path)
    # llama.cpp changes the order of rows in it too, which is known here of no table.
    other = make_checkpoint("smollm3")
    adapter = write_adapter(other, tmp_path / "other", target_modules=["q_proj"])
    file = write_gguf_adapter(tmp_path / "other.gguf", adapter, other, "smollm3")
    with pytest.raises(UserError, match="of architecture smollm3, whose adapters are read from peft's folders alone"):
        lora.write_peft(file, Folder(other), tmp_path)


def test_links_and_large_letters(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    write_gguf_adapter(tmp_path / "blob", adapter, base)
    for name in ("link.gguf", "LINK.GGUF"):
        (tmp_path / name).symlink_to(tmp_path / "blob")  # as in the hub's cache
        found = prepare(Checkpoint(source=str(base), adapter=str(tmp_path / name)), 0, Place(tmp_path, tmp_path))
        assert found.adapter.hashes().keys() == {name}
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"gone\.gguf does not exist"):
        prepare(Checkpoint(source=str(base), adapter=str(tmp_path / "gone.gguf")), 0, Place(tmp_path, tmp_path))


def test_a_file_through_the_command(tmp_path):
    checkpoint = tiny_assistant.CHECKPOINT
    adapter = write_adapter(checkpoint, tmp_path / "adapter", target_modules=["down_proj"])
    file = write_gguf_adapter(tmp_path / "mine.gguf", adapter, checkpoint)
    done = subprocess.run(
        [
            Path(sys.executable).parent / "et-pipeline",
            "model=tiny_assistant",
            f"model.adapter={file}",
            "until=acquire",
            f"paths.cache={tmp_path / 'cache'}",
        ],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "cache" / "merge_lora").glob("*/model.safetensors")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(made.parent, dtype=torch.float32)(torch.tensor([IDS])).logits
    right = peft_logits(checkpoint, adapter, torch.tensor([IDS]))
    assert (found - right).abs().max() <= 1e-5 * right.abs().max()
