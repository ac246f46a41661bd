import hashlib
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from et_pipeline.errors import UserError
from et_pipeline.models.checkpoint import load_model
from et_pipeline.quantization import torchao_config
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint, quantize_module
from et_pipeline.settings import Quantization

BASE = Quantization(
    scheme="8da4w",
    group_size=32,
    mapping="symmetric_no_clipping_error",
    embedding_bits=8,
    embedding_group_size=0,
)
SCHEMES = [("fp32", 0), ("8da4w", 32), ("8da4w", 0), ("8da8w", 0), ("int4_weight_only", 0), ("int8_weight_only", 0)]


def recipe(**changes):
    return BASE.model_copy(update=changes)


@pytest.mark.parametrize(("scheme", "group_size"), SCHEMES)
def test_linear_has_as_many_steps_as_bits(scheme, group_size):
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    before = layer.weight.detach().clone()
    quantize_module("layer", layer, recipe(scheme=scheme, group_size=group_size))
    if scheme == "fp32":
        assert torch.equal(layer.weight, before)
        return
    bits = 4 if "4" in scheme.removeprefix("8da") else 8
    assert layer.weight.qdata.int().abs().max() <= 2 ** (bits - 1)
    assert layer.weight.scale.shape == (8, 64 // (group_size or 64))
    assert layer.weight.scale.dtype == (torch.bfloat16 if group_size else torch.float32)
    assert (layer.weight.activation_quantization is not None) == scheme.startswith("8da")
    assert not layer.weight.zero_point.any()
    step = layer.weight.scale.float().repeat_interleave(group_size or 64, 1)
    # Half a step of rounding; bf16 scales may clip the largest weight by 2^-8 of it more.
    assert ((layer.weight.dequantize() - before).abs() <= step * 0.5 + before.abs() * 2**-7).all()


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 0), (32, 0)])
def test_embedding(bits, group_size):
    layer = nn.Embedding(16, 64)
    quantize_module("layer", layer, recipe(embedding_bits=bits, embedding_group_size=group_size))
    if bits == 32:
        assert type(layer.weight) is nn.Parameter
    else:
        assert layer.weight.scale.shape == (16, 64 // (group_size or 64))
        assert layer.weight.qdata.int().abs().max() <= 2 ** (bits - 1)


def test_other_modules_stay():
    norm = nn.LayerNorm(8)
    quantize_module("norm", norm, BASE)
    assert type(norm.weight) is nn.Parameter


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(48, 8), r"linear layer x has rows of 48 weights, which recipe\.group_size=32 does not divide"),
        (nn.Embedding(8, 48), r"embedding x has rows of 48 weights, which recipe\.embedding_group_size=32 does not"),
    ],
)
def test_groups_that_do_not_divide(layer, message):
    with pytest.raises(UserError, match=message):
        quantize_module("x", layer, recipe(embedding_group_size=32))


FIRST = "quantized-00000.pt"


def test_small_shards_make_the_same_model(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(torchao_config, "SHARD_WEIGHTS", 1)
    quantize_checkpoint(tiny_llama, BASE, tmp_path)
    assert len(list(tmp_path.iterdir())) > 10
    whole = load_model(tiny_llama, partial(quantize_module, q=BASE))
    tokens = torch.arange(1, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(load_quantized(tiny_llama, tmp_path, BASE)(tokens).logits, whole(tokens).logits)
    (tmp_path / FIRST).unlink()
    with pytest.raises(UserError, match="is in only one of them"):
        load_quantized(tiny_llama, tmp_path, BASE)


@pytest.mark.parametrize(("scheme", "group_size"), SCHEMES)
def test_saved_and_loaded_computes_the_same(tiny_llama, tmp_path, scheme, group_size):
    q = recipe(scheme=scheme, group_size=group_size)
    model = load_model(tiny_llama, partial(quantize_module, q=q))
    quantize_checkpoint(tiny_llama, q, tmp_path)
    again = load_quantized(tiny_llama, tmp_path, q)
    tokens = torch.arange(1, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, again(tokens).logits)


def test_same_bytes_in_two_processes(tiny_llama, tmp_path):
    code = f"""
import sys
from pathlib import Path
from et_pipeline.quantization.torchao_config import quantize_checkpoint
from et_pipeline.settings import Quantization
q = Quantization.model_validate_json({BASE.model_dump_json()!r})
quantize_checkpoint(Path({str(tiny_llama)!r}), q, Path(sys.argv[1]))
"""
    for seed in "12":
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    digests = {hashlib.sha256((tmp_path / seed / FIRST).read_bytes()).hexdigest() for seed in "12"}
    assert len(digests) == 1


def test_file_of_something_else(tiny_llama, make_checkpoint, tmp_path):
    quantize_checkpoint(tiny_llama, BASE, tmp_path)
    with pytest.raises(UserError, match="not quantized with the given recipe"):
        load_quantized(tiny_llama, tmp_path, recipe(scheme="8da8w", group_size=0))
    with pytest.raises(UserError, match="is in only one of them"):
        load_quantized(make_checkpoint("llama", num_hidden_layers=1), tmp_path, BASE)
    with pytest.raises(UserError, match="has shape"):
        load_quantized(make_checkpoint("llama", intermediate_size=64), tmp_path, BASE)
    content = (tmp_path / FIRST).read_bytes()
    for damaged in (b"", b"x" * 100, content[: len(content) // 2]):
        (tmp_path / FIRST).write_bytes(damaged)
        with pytest.raises(UserError, match="is not a file of quantized weights"):
            load_quantized(tiny_llama, tmp_path, BASE)
