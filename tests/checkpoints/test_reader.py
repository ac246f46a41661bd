import json
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from et_pipeline.checkpoints.layout import SINGLE, read_bytes, read_layout
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.errors import UserError


def safetensors_bytes(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def folder(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def edit(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_layout_needs_neither_torch_nor_transformers(tiny_llama):
    code = (
        "import sys; from pathlib import Path; from et_pipeline.checkpoints.layout import read_bytes, read_layout;"
        f"assert read_layout(Path({str(tiny_llama)!r}));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layout_names_file_shape_dtype_and_place(tiny_llama):
    name = "model.layers.1.self_attn.k_proj.weight"
    info = read_layout(tiny_llama)[name]
    assert info[:3] == ("model.safetensors", (64, 128), "F32")
    weight = load_file(tiny_llama / "model.safetensors")[name]
    assert b"".join(read_bytes(tiny_llama, info)) == weight.numpy().tobytes()


def test_model_equals_transformers_own(tiny_llama):
    tokens = torch.arange(1, 20).unsqueeze(0)
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(load_model(tiny_llama)(tokens).logits, expected(tokens).logits)


def test_shards_equal_a_single_file(folder):
    single = load_model(folder).state_dict()
    shard(folder)
    sharded = load_model(folder).state_dict()
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[name], sharded[name]) for name in single)


def test_tied_head_becomes_its_own(tiny_llama):
    model = load_model(tiny_llama)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not model.config.tie_word_embeddings


def test_convert_sees_each_module_once_and_filled(tiny_llama):
    seen, steps = [], []

    def convert(name, module):
        assert all(not tensor.is_meta for tensor in module.parameters(recurse=False))
        seen.append(name)

    model = load_model(tiny_llama, convert, lambda done, total: steps.append((done, total)))
    assert len(seen) == len(set(seen)) == len(list(model.parameters()))
    assert steps == [(n, len(seen)) for n in range(1, len(seen) + 1)]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_is_read_as_float32(folder):
    edit(folder, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    assert {parameter.dtype for parameter in load_model(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight, which config.json asks for"),
        (lambda t: t.update(extra=torch.zeros(2)), "tensor extra has no place"),
        (lambda t: t.update({"model.norm.weight": torch.ones(64)}), r"model.norm.weight has shape \[64\].*\[128\]"),
        (lambda t: t.update({"model.norm.weight": torch.ones(128, dtype=torch.int8)}), "model.norm.weight is I8"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_rotary_tables_of_old_checkpoints_are_ignored(folder):
    edit(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}))
    load_model(folder)


@pytest.mark.parametrize("missing", [1, 9, 1000])
def test_truncated_file(folder, missing):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (struct.pack("<Q", 1 << 60), "claims"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (safetensors_bytes(b"not json"), "no JSON"),
        (safetensors_bytes([1]), "no JSON object"),
        (safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}), "makes no sense"),
        (safetensors_bytes({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)), "makes no sense"),
        (safetensors_bytes({"a": {**ENTRY, "shape": [-2]}}, bytes(8)), "makes no sense"),
        (safetensors_bytes({"a": {**ENTRY, "shape": [3]}}, bytes(8)), "8 bytes instead of 12"),
        (safetensors_bytes({"a": ENTRY}, bytes(7)), "truncated"),
        (safetensors_bytes({"a": ENTRY}, bytes(9)), "1 bytes follow"),
    ],
)
def test_damaged_header(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_layout(tmp_path)


@given(content=st.binary(max_size=200))
def test_any_bytes_end_in_one_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError):
        read_layout(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "not a safetensors index"),
        ('{"weight_map": {"a": 1}}', "does not name files"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "same folder"),
        ('{"weight_map": {"a": "a.bin"}}', "same folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is missing"),
    ],
)
def test_bad_index(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=message):
        read_layout(tmp_path)


def test_index_that_misplaces_a_tensor(folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"lm_head.weight"', '"x"').replace("model.norm.weight", "y"))
    with pytest.raises(UserError, match="but it does not"):
        read_layout(folder)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="convert it to safetensors"):
        read_layout(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="neither"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{", "config.json is not valid JSON"),
        ('{"model_type": "no-such-family"}', "not a model config"),
        ('{"model_type": "vit"}', "no text-generation model"),
        (
            '{"model_type": "llama", "hidden_size": 256, "num_attention_heads": 3}',
            "hidden_size=256, which num_attention_heads=3",
        ),
        (
            '{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}',
            "'gptq' with bits=None",
        ),
    ],
)
def test_bad_config(folder, config, message):
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        load_model(folder)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text"])
def test_streamed_model_computes_the_same_and_keeps_nothing(make_checkpoint, family):
    settings = {"query_pre_attn_scalar": 32} if family == "gemma3_text" else {}
    folder = make_checkpoint(family, tie_word_embeddings=family == "gemma3_text", **settings)
    streamed = stream_model(folder)
    tokens = torch.arange(2, 40).unsqueeze(0)
    with torch.no_grad():
        expected = load_model(folder)(tokens, use_cache=False).logits
        for _ in range(2):  # a forward leaves it as it was
            assert torch.equal(streamed(tokens, use_cache=False).logits, expected)
            assert all(parameter.is_meta for parameter in streamed.parameters())


def test_streamed_model_names_a_file_that_went_away(make_checkpoint):
    folder = make_checkpoint("llama", num_hidden_layers=1)
    streamed = stream_model(folder)
    (folder / SINGLE).unlink()
    with pytest.raises(UserError, match=r"tensor model\.embed_tokens\.weight cannot be read"):
        streamed(torch.tensor([[2, 3]]))


def test_a_family_that_transformers_puts_together_anew_is_refused(make_checkpoint):
    with pytest.raises(UserError, match=r"is a mixture of experts \(num_local_experts=8\)"):
        load_model(make_checkpoint("mixtral"))
