"""Weights in a file of their own, which several programs share."""

import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from et_pipeline import cache
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.models.decoder import Decoder, export_decoder, metadata
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime import packed_weights
from et_pipeline.runtime.program import Program, check_weights_file, weights_beside
from et_pipeline.settings import ExportForm, Quantization

TOKENS = torch.randint(2, 512, (1, 16), generator=torch.Generator().manual_seed(0))
RECIPE = Quantization(
    scheme="8da4w", group_size=32, mapping="symmetric_no_clipping_error", embedding_bits=8, embedding_group_size=0
)


def lower(checkpoint, pte, context, kv_cache="fp32", external_weights=True):
    form = ExportForm(max_context=context, prefill_chunk=16, kv_cache=kv_cache)
    decoder = Decoder(load_model(checkpoint, partial(quantize_module, q=RECIPE)), form)
    pte.parent.mkdir(exist_ok=True)
    get_backend("xnnpack").lower(
        export_decoder(decoder), metadata(decoder, 0, [1]), pte, external_weights=external_weights
    )
    return pte


def logits(pte, weights=None):
    return Program(pte, threads=1, weights=weights).forward(TOKENS, 0)


@pytest.fixture(scope="module")
def model(make_checkpoint):
    return make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def program(model, tmp_path_factory):
    return lower(model, tmp_path_factory.mktemp("external") / "model.pte", 64)


@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="kept there only")
def test_packed_weights_can_be_kept(program, tmp_path):
    files = [program, weights_beside(program)]
    entry = packed_weights.find_entry(tmp_path, [cache.sha256_file(file) for file in files], 1000)
    for _ in range(2):
        assert torch.equal(Program(program, threads=1, packed=entry).forward(TOKENS, 0), logits(program))
    assert (entry / packed_weights.FILE_NAME).stat().st_size > 50_000


def test_program_is_small_and_its_weights_lie_beside_it(program, tmp_path):
    weights = weights_beside(program)
    assert weights == program.with_suffix(".ptd")
    assert program.stat().st_size < 50_000 < weights.stat().st_size
    alone = tmp_path / "model.pte"
    alone.write_bytes(program.read_bytes())
    assert weights_beside(alone) is None
    with pytest.raises(UserError, match=r"model\.pte needs the weights that it was exported with, as model\.ptd"):
        Program(alone)
    assert logits(alone, weights).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], r"model\.ptd is truncated: it has \d+ bytes of \d+"),
        (lambda data: data[:20], r"model\.ptd is not an ExecuTorch data file"),
        (lambda data: b"x" * len(data), r"model\.ptd is not an ExecuTorch data file"),
    ],
)
def test_broken_weights(program, tmp_path, change, message):
    broken = tmp_path / "model.ptd"
    broken.write_bytes(change(program.with_suffix(".ptd").read_bytes()))
    with pytest.raises(UserError, match=message):
        Program(program, weights=broken)


def test_missing_weights(tmp_path):
    with pytest.raises(UserError, match=r"none\.ptd does not exist"):
        check_weights_file(tmp_path / "none.ptd")


def test_weights_of_another_program(program, tmp_path):
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    foreign = tmp_path / "foreign.ptd"
    with foreign.open("wb") as stream:
        payload = DataPayload([b"0" * 64], {"another": DataEntry(0, 16, None)})
        FlatTensorSerializer().serialize(payload).write_to_file(stream)
    with pytest.raises(UserError, match=r"model\.pte needs the weights .*foreign\.ptd holds others"):
        Program(program, weights=foreign)


@pytest.mark.slow
def test_programs_of_two_runs_share_their_weights(model, program, tmp_path):
    expected = logits(lower(model, tmp_path / "whole" / "model.pte", 64, external_weights=False))
    other = tmp_path / "other" / "model.pte"
    code = (
        "import sys; from pathlib import Path; from test_external_weights import lower; "
        "lower(*map(Path, sys.argv[1:]), 128)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(model), str(other)],
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    int8 = lower(model, tmp_path / "int8" / "model.pte", 64, kv_cache="int8")
    weights = program.with_suffix(".ptd")
    assert weights_beside(other).read_bytes() == weights.read_bytes()
    assert other.read_bytes() != program.read_bytes()
    assert torch.equal(logits(program), expected)
    assert torch.equal(logits(other, weights), expected)
    assert torch.equal(logits(program, weights_beside(other)), expected)
    with pytest.raises(UserError, match="holds others"):  # what goes with a key's zero is among its weights
        Program(int8, weights=weights)
    assert torch.allclose(logits(int8, weights_beside(int8)), logits(int8))
