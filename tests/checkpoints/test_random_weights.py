import json

import pytest
import torch
from safetensors.torch import load_file

from et_pipeline.cache import sha256_file
from et_pipeline.checkpoints import random_weights
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import read_layout
from et_pipeline.checkpoints.random_weights import RandomModel
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.settings import Sentence

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "eos_token_id": 4000,
}


def make(folder, seed=0, **changes):
    folder.mkdir(exist_ok=True)
    model = RandomModel(architecture={**SHAPE, **changes}, seed=seed)
    figures = random_weights.run({}, folder, lambda done, total: None, model)
    return figures, load_file(folder / "model.safetensors")


def test_weights_are_normal_and_unlike_each_other(tmp_path):
    figures, tensors = make(tmp_path)
    assert "lm_head.weight" not in tensors
    assert figures["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    embedding = tensors["model.embed_tokens.weight"].double()
    assert embedding.mean().abs() < 1e-4
    assert embedding.std() == pytest.approx(0.02, rel=0.01)
    kurtosis = (embedding / embedding.std()).pow(4).mean()
    assert kurtosis == pytest.approx(3, abs=0.05)
    assert embedding.unique().numel() > 2000
    # Rows, and matrices of one shape, are as unlike as chance makes them.
    assert torch.corrcoef(embedding[:100]).fill_diagonal_(0).abs().max() < 0.4
    gates = [tensors[f"model.layers.{layer}.mlp.gate_proj.weight"].double().ravel() for layer in (0, 1)]
    assert torch.corrcoef(torch.stack(gates))[0, 1].abs() < 0.02
    assert (tensors["model.layers.0.input_layernorm.weight"] == 1).all()


def test_blocks_continue_each_other(tmp_path, monkeypatch):
    """The bytes do not depend on how many weights are drawn at a time."""
    _, whole = make(tmp_path / "whole")
    monkeypatch.setattr(random_weights, "BLOCK", 1 << 12)
    _, pieces = make(tmp_path / "pieces")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_an_embedder_has_the_files_and_layers_behind_its_pooling(tmp_path):
    sentence = Sentence(pooling="lasttoken", dense=(512, 128))
    model = RandomModel(architecture=SHAPE | {"model_type": "qwen3"}, seed=0, sentence=sentence)
    figures = random_weights.run({}, tmp_path, lambda done, total: None, model)
    facts = read_facts(Folder(tmp_path))
    assert facts.parameters == figures["parameters"]
    assert facts.pooling.mode == "lasttoken"
    assert [(layer.inputs, layer.outputs, layer.activation) for layer in facts.pooling.dense] == [
        (256, 512, "identity"),
        (512, 128, "identity"),
    ]
    made = load_model(tmp_path)
    assert made.dense[1].weight.shape == (128, 512)
    assert made.dense[0].weight.std() == pytest.approx(0.02, rel=0.05)
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    for name in ("2_Dense/model.safetensors", "1_Pooling/config.json"):
        assert sums[name] == sha256_file(tmp_path / name)


def test_the_seed_decides(tmp_path):
    _, first = make(tmp_path / "a")
    _, same = make(tmp_path / "b")
    _, other = make(tmp_path / "c", seed=1)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert torch.equal(first["model.norm.weight"], same["model.norm.weight"])
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 64}),
        ("gemma2", {"head_dim": 64}),
        ("phi3", {"tie_word_embeddings": False, "pad_token_id": 32000}),
    ],
)
def test_families_make_a_model_that_says_different_things(family, changes, tmp_path):
    _, tensors = make(tmp_path, model_type=family, **changes)
    assert ("lm_head.weight" in tensors) != changes.get("tie_word_embeddings", True)
    norm = tensors["model.norm.weight"]
    assert (norm == (0 if family.startswith("gemma") else 1)).all()
    assert all(0 < tensor.std() < 0.05 for name, tensor in tensors.items() if name.endswith("bias"))
    model = load_model(tmp_path)
    logits = model(torch.arange(100, 116).unsqueeze(0)).logits[0]
    assert logits.isfinite().all()
    assert logits.std() > 0.1
    assert len(set(logits.argmax(-1).tolist())) > 4
    facts = read_facts(Folder(tmp_path))
    assert facts.eos_ids == (2,)
    assert not facts.chat.is_plain


def test_config_speaks_of_the_built_in_tokenizer(tmp_path):
    make(tmp_path, torch_dtype="float32")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["dtype"]) == (1, 2, "bfloat16")
    assert "torch_dtype" not in config
    assert {info.dtype for info in read_layout(tmp_path).values()} == {"BF16"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 512}, r"model\.architecture\.vocab_size=512 is below the 2048 tokens"),
        ({"model_type": "nonsense"}, r"model\.architecture is not a model config"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"model\.architecture has a quantization_config"),
        ({"num_attention_heads": 3, "hidden_act": "nope"}, r"model\.architecture"),
    ],
)
def test_architectures_that_make_no_model(changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as error:
        make(tmp_path, **changes)
    assert str(tmp_path) not in str(error.value)
