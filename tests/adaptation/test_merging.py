"""A checkpoint with its adapter is what peft says that it is."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from et_pipeline.adaptation.merging import merge
from et_pipeline.checkpoints.adapter import Adapter
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from tests.make_adapter import peft_logits, write_adapter
from tests.make_prequantized import write_gptq

IDS = torch.arange(2, 50)[None]
KINDS = {
    "all linears": {"target_modules": "all-linear"},
    "DoRA": {"use_dora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "rsLoRA": {"use_rslora": True, "target_modules": ["q_proj", "o_proj"], "rank_pattern": {"q_proj": 2}},
    "ranks and alphas by pattern": {"target_modules": ["q_proj", "up_proj"], "alpha_pattern": {"up_proj": 3}},
    "head and embedding": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "the embedding alone": {"target_modules": ["embed_tokens"]},
    "what is saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "an embedding saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "a pattern of names": {"target_modules": r".*\.1\.self_attn\.(q|v)_proj"},
}


def merged(base, adapter, out):
    out.mkdir()
    return merge(base, Adapter(adapter), out, lambda *_: None)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "with a head of its own"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_checkpoint_computes_what_peft_does(kind, tied, make_checkpoint, tmp_path):
    base = make_checkpoint("llama", tie_word_embeddings=tied, initializer_range=0.05)
    adapter = write_adapter(base, tmp_path / "adapter", **KINDS[kind])
    figures = merged(base, adapter, tmp_path / "merged")
    expected = peft_logits(base, adapter, IDS)
    assert figures["tensors"] > 0
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))).abs().max() > 0.01
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for model in (theirs, load_model(tmp_path / "merged")):
        assert (logits(model) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", ["phi3", "qwen2", "gemma3_text"])
def test_families(family, make_checkpoint, tmp_path):
    base = make_checkpoint(family, initializer_range=0.05)
    adapter = write_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    merged(base, adapter, tmp_path / "merged")
    expected = peft_logits(base, adapter, IDS)
    assert (logits(load_model(tmp_path / "merged")) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_is_not_changed_keeps_its_bytes(make_checkpoint, tmp_path):
    """And what is becomes float32: of a small change bfloat16 keeps little."""
    base = make_checkpoint("llama", tie_word_embeddings=False)
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    shutil.copy(base / "tokenizer.json", half)
    adapter = write_adapter(half, tmp_path / "adapter", spread=0.002, target_modules=["q_proj"])
    assert merged(half, adapter, tmp_path / "merged")["tensors"] == 2
    before, after = load_file(half / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if "q_proj" in name:
            assert tensor.dtype == torch.float32
            assert 0 < (tensor - before[name].float()).abs().max() < 1e-3
        else:
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, before[name])
    expected = peft_logits(half, adapter, IDS)
    assert (logits(load_model(tmp_path / "merged")) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_tokens_that_a_fine_tune_added(make_checkpoint, tmp_path):
    for tied in (True, False):
        base = make_checkpoint("llama", tie_word_embeddings=tied, initializer_range=0.05)
        folder = tmp_path / str(tied)
        adapter = write_adapter(base, folder / "adapter", rows=520, target_modules=["q_proj"])
        (adapter / "tokenizer.json").write_text((base / "tokenizer.json").read_text() + "\n")
        merged(base, adapter, folder / "merged")
        assert Folder(folder / "merged").config["vocab_size"] == 520
        assert (folder / "merged" / "tokenizer.json").read_text().endswith("\n")
        expected = peft_logits(base, adapter, IDS, rows=520)
        assert (logits(load_model(folder / "merged")) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_quantized_base_becomes_floats(make_checkpoint, tmp_path):
    float_base = make_checkpoint("llama", num_hidden_layers=1, initializer_range=0.05)
    adapter = write_adapter(float_base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    base = write_gptq(float_base, tmp_path / "gptq")
    merged(base, adapter, tmp_path / "merged")
    made, stored = load_model(tmp_path / "merged").state_dict(), load_model(base).state_dict()
    state = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in made.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        adds = 0
        if f"{prefix}.lora_A.weight" in state:
            adds = 2 * state[f"{prefix}.lora_B.weight"] @ state[f"{prefix}.lora_A.weight"]
        assert torch.allclose(tensor, stored[name] + adds, atol=1e-6), name


def refused(base, adapter, tmp_path, sentence):
    with pytest.raises(UserError, match=sentence):
        merged(base, adapter, tmp_path / "merged")


def test_an_adapter_of_another_model_is_refused(make_checkpoint, tmp_path):
    base = make_checkpoint("llama")
    for number, changes in enumerate(({"hidden_size": 64}, {"num_hidden_layers": 3}, {"intermediate_size": 128})):
        other = make_checkpoint("llama", **changes)
        adapter = write_adapter(other, tmp_path / str(number), target_modules="all-linear")
        with pytest.raises(UserError, match=re.escape(f"says that it was trained on {other}")):
            merged(base, adapter, tmp_path / f"merged{number}")
    gpt = write_adapter(make_checkpoint("phi3"), tmp_path / "phi", target_modules=["qkv_proj"])
    refused(base, gpt, tmp_path, "says that it was trained on")


def test_tensors_that_are_missing_strange_or_not_finite(make_checkpoint, tmp_path):
    base = make_checkpoint("llama")
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    path = adapter / "adapter_model.safetensors"
    state, name = load_file(path), "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    cases = {
        f"lacks {re.escape(name)}": {key: value for key, value in state.items() if key != name},
        "holds base_model.model.model.layers.7": {**state, name.replace("layers.1", "layers.7"): state[name].clone()},
        "names of peft begin with base_model.model": {**state, "lora_A.weight": state[name].clone()},
        "which .* has not": {**state, "base_model.model.model.layers.0.router.weight": state[name].clone()},
        "not finite": {**state, name: state[name] * float("nan")},
    }
    for number, (sentence, changed) in enumerate(cases.items()):
        save_file(changed, path)
        with pytest.raises(UserError, match=sentence):
            merged(base, adapter, tmp_path / f"out{number}")


def test_a_bias_that_the_model_has_no_place_for(make_checkpoint, tmp_path):
    base = make_checkpoint("llama")
    refused(
        base,
        write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], lora_bias=True),
        tmp_path,
        "lora_bias=true, and .*q_proj has no bias",
    )
    biased = make_checkpoint("qwen2", initializer_range=0.05)
    adapter = write_adapter(biased, tmp_path / "biased", target_modules=["q_proj"], lora_bias=True)
    merged(biased, adapter, tmp_path / "with_bias")
    expected = peft_logits(biased, adapter, IDS)
    assert (logits(load_model(tmp_path / "with_bias")) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_without_peft_there_is_a_sentence(make_checkpoint, tmp_path, monkeypatch):
    base = make_checkpoint("llama")
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    refused(base, adapter, tmp_path, r"pip install 'et-pipeline\[adapt\]'")


def test_a_killed_merge_leaves_whole_shards(make_checkpoint, tmp_path):
    """What was written is found and kept: the same call once more gives the same bytes."""
    base = make_checkpoint("llama")
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    merged(base, adapter, tmp_path / "merged")
    once = {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()}
    merge(base, Adapter(adapter), tmp_path / "merged", lambda *_: None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()} == once
    assert json.loads(once["config.json"])["model_type"] == "llama"


def test_what_sees_beside_a_language_model_stays_behind(make_checkpoint, tmp_path):
    """A checkpoint of Qwen3.5 that sees, and an adapter that was trained on its language model alone."""
    text = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
    alone = make_checkpoint("qwen3_5_text", linear_value_head_dim=16, num_hidden_layers=4, **text)
    base = shutil.copytree(alone, tmp_path / "base")
    config = {"model_type": "qwen3_5", "text_config": json.loads((base / "config.json").read_text())}
    (base / "config.json").write_text(json.dumps(config | {"vision_config": {"model_type": "qwen3_5_vision"}}))
    weights = load_file(base / "model.safetensors")
    weights = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in weights.items()}
    save_file(weights | {"model.visual.weight": torch.zeros(2)}, base / "model.safetensors", {"format": "pt"})
    adapter = write_adapter(alone, tmp_path / "adapter", target_modules="all-linear")
    merged(base, adapter, tmp_path / "merged")
    assert not Folder(tmp_path / "merged").senses
    expected = peft_logits(alone, adapter, IDS)
    assert (logits(load_model(tmp_path / "merged")) - expected).abs().max() <= 3e-5 * expected.abs().max()
