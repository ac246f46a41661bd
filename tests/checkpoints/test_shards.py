import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from et_pipeline.checkpoints import shards
from et_pipeline.checkpoints.layout import INDEX, read_layout
from et_pipeline.checkpoints.shards import NewTensor, bfloat16, encode, write_checkpoint
from et_pipeline.errors import UserError

TENSORS = [
    NewTensor("norm", (3,), "F32"),
    NewTensor("wide", (5, 7), "F16"),
    NewTensor("deep", (7, 5), "BF16"),
    NewTensor("bias", (1,), "F32"),
]


def values(tensor):
    return np.random.default_rng(len(tensor.name)).normal(size=tensor.shape).astype(np.float32)


def content(tensor):
    data = encode(values(tensor), tensor.dtype)
    yield data[:4]
    yield data[4:]


def write(folder, made=content, **settings):
    write_checkpoint(folder, "model.source=x", TENSORS, made, lambda done, total: None, **settings)


def test_bfloat16_rounds_as_torch_does():
    given = np.concatenate([np.random.default_rng(0).normal(size=10000), [0.0, -0.0, 1.00390625, 1.01171875]])
    given = given.astype(np.float32)
    assert (bfloat16(given) == torch.from_numpy(given).bfloat16().view(torch.int16).numpy().view(np.uint16)).all()


@pytest.mark.parametrize("shard_bytes", [80, 10**9])
def test_what_is_written_is_read_back(tmp_path, shard_bytes):
    write(tmp_path, shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == (3 if shard_bytes == 80 else 1)
    assert (tmp_path / INDEX).exists() == (shard_bytes == 80)
    assert {name: info.shape for name, info in read_layout(tmp_path).items()} == {t.name: t.shape for t in TENSORS}
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for tensor in TENSORS:
        assert torch.equal(found[tensor.name], torch.from_numpy(values(tensor)).to(kinds[tensor.dtype]))
    lines = (tmp_path / shards.CHECKSUMS).read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {path.name for path in tmp_path.iterdir()} - {shards.CHECKSUMS}


def test_a_run_that_broke_goes_on_with_the_shard_it_was_at(tmp_path):
    def breaks(tensor):
        if tensor.name == "wide":
            yield b"half"
            raise KeyboardInterrupt
        yield from content(tensor)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, breaks, shard_bytes=80)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors.tmp",
    ]
    made = []

    def noted(tensor):
        made.append(tensor.name)
        yield from content(tensor)

    write(tmp_path, noted, shard_bytes=80)
    assert made == ["wide", "bias", "deep"]
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, shard_bytes=80)
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_shard_of_the_wrong_length_or_head_is_made_again(tmp_path):
    write(tmp_path, shard_bytes=80)
    first, second, third = sorted(tmp_path.glob("*.safetensors"))
    sums = (tmp_path / shards.CHECKSUMS).read_text()
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(second.read_bytes().replace(b"wide", b"wild"))
    third.unlink()
    write(tmp_path, shard_bytes=80)
    assert (tmp_path / shards.CHECKSUMS).read_text() == sums


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"model\.source=x needs 0\.0 GB on the disk of .*paths\.cache"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_missing_needs_room(tmp_path, monkeypatch):
    write(tmp_path, shard_bytes=80)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    write(tmp_path, shard_bytes=80)
    assert json.loads((tmp_path / INDEX).read_text())["weight_map"]["bias"] == "model-00003-of-00003.safetensors"
