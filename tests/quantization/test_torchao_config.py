import copy
import hashlib
import os
import shutil
import subprocess
import sys
from functools import partial
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.quantization import quantize_

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.quantization import torchao_config
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint, quantize_module, unpack
from et_pipeline.settings import Mapping, Quantization

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


WEIGHT_ONLY_GROUPS = [("8da8w", 64), ("int4_weight_only", 32), ("int8_weight_only", 64)]  # of other backends


@pytest.mark.parametrize("mapping", get_args(Mapping))
@pytest.mark.parametrize(("scheme", "group_size"), [*SCHEMES[1:], *WEIGHT_ONLY_GROUPS])
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (7, 192), (67, 64), (33, 1088)])
def test_blocks_of_rows_are_quantized_as_the_whole_is(monkeypatch, mapping, scheme, group_size, rows, width):
    q = recipe(scheme=scheme, group_size=group_size, mapping=mapping, embedding_bits=4, embedding_group_size=group_size)
    torch.manual_seed(0)
    for make in (partial(nn.Linear, bias=True), nn.Embedding):
        whole = make(width, rows) if make is not nn.Embedding else make(rows, width)
        whole.to(torch.bfloat16)  # equal weights and zeros are more frequent
        whole.weight.detach()[0] = 0
        blocks = copy.deepcopy(whole)
        whole.float()
        quantize_(whole, torchao_config._config(whole, q), lambda module, name: True)
        monkeypatch.setattr(torchao_config, "BLOCK_WEIGHTS", 5 * width)
        quantize_module("layer", blocks, q)
        for name in whole.weight.tensor_data_names:
            one, other = getattr(blocks.weight, name), getattr(whole.weight, name)
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        for name in whole.weight.tensor_attribute_names:
            assert getattr(blocks.weight, name) == getattr(whole.weight, name)
        assert torch.equal(blocks.weight.dequantize(), whole.weight.dequantize())


@pytest.mark.parametrize("width", [32, 64, 96])
def test_a_row_no_longer_than_a_group_has_one_scale(width):
    layer = nn.Linear(width, 4)
    quantize_module("layer", layer, recipe(scheme="8da4w", group_size=64) if width < 96 else recipe(group_size=32))
    assert layer.weight.block_size == (1, width if width < 96 else 32)
    assert layer.weight.scale.dtype == (torch.float32 if width < 96 else torch.bfloat16)


@pytest.mark.parametrize("group_size", [0, 32])
def test_hqq_searches_scales_with_less_error(group_size):
    torch.manual_seed(0)
    errors = {}
    for algorithm in ("rtn", "hqq"):
        layer = nn.Linear(64, 8)
        layer.weight = nn.Parameter(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))
        before = layer.weight.detach().clone()
        quantize_module("layer", layer, recipe(group_size=group_size, algorithm=algorithm))
        assert layer.weight.scale.dtype == (torch.bfloat16 if group_size else torch.float32)
        errors[algorithm] = (layer.weight.dequantize() - before).norm()
    assert errors["hqq"] < errors["rtn"]


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


def test_weights_are_quantized_some_at_a_time(monkeypatch):
    """What torchao makes on its way is many times as large as its input."""
    seen = []
    monkeypatch.setattr(torchao_config, "BLOCK_WEIGHTS", 1000)
    monkeypatch.setattr(
        torchao_config, "quantize_", lambda part, *rest: seen.append(part.weight.numel()) or quantize_(part, *rest)
    )
    quantize_module("layer", nn.Linear(64, 50), BASE)
    assert sum(seen) == 64 * 50
    assert max(seen) <= 1000


def test_a_bfloat16_checkpoint_is_quantized_as_its_float32_values(tiny_llama, tmp_path):
    """The weights are read as they are stored, and widened block by block."""
    folder = shutil.copytree(tiny_llama, tmp_path / "bf16")
    tensors = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for q in (BASE, recipe(scheme="fp32", group_size=0, embedding_bits=32)):
        out = tmp_path / q.scheme
        out.mkdir()
        quantize_checkpoint(folder, q, out)
        saved = torch.load(out / FIRST, weights_only=True)
        for name, value in load_model(folder, partial(quantize_module, q=q)).state_dict().items():
            assert saved[name].dtype == torch.float32, name
            if hasattr(value, "dequantize") and hasattr(value, "qdata"):
                value, saved[name] = value.dequantize(), saved[name].dequantize()
            assert torch.equal(saved[name], value), name


@pytest.mark.parametrize(("scheme", "group_size"), [("8da4w", 32), ("8da8w", 0), ("int4_weight_only", 0), ("fp32", 0)])
def test_an_unpacked_linear_computes_the_same(scheme, group_size):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    quantize_module("linear", linear, recipe(scheme=scheme, group_size=group_size))
    rows = torch.randn(2, 30, 64) * torch.logspace(-8, 3, 30)[:, None]
    rows[0, 3] = 0
    rows[0, 4].abs_()
    expected = linear(rows)
    unpack(linear)
    torch.testing.assert_close(linear(rows), expected, rtol=1e-5, atol=1e-6)
    assert ("forward" in linear.__dict__) == (scheme != "fp32")
