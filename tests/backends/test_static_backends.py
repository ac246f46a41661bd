"""Delegates that take one token per call and no dynamic shape: what they take of a decoder, and what they refuse."""

import pytest
import torch

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.encoder import embed_batch
from et_pipeline.models.pooling import Pooling
from et_pipeline.models.static_decoder import StaticDecoder, export_static, static_metadata
from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.embedding import embed
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm, Quantization

TOKENS = torch.randint(2, 500, (12,), generator=torch.Generator().manual_seed(0))


def quantization(scheme):
    mapping = "symmetric_no_clipping_error"
    bits = 32 if scheme == "fp32" else 8
    return Quantization(scheme=scheme, group_size=0, mapping=mapping, embedding_bits=bits, embedding_group_size=0)


def decoder(make_checkpoint, scheme):
    q = quantization(scheme)
    model = load_model(make_checkpoint("llama", num_hidden_layers=1), lambda name, each: quantize_module(name, each, q))
    return StaticDecoder(model, ExportForm(max_context=32, prefill_chunk=1))


def test_portable_kernels_equal_eager(make_checkpoint, tmp_path):
    made = decoder(make_checkpoint, "fp32")
    with torch.no_grad():
        expected = torch.stack([made(t.view(1, 1), torch.tensor([at])).reshape(-1) for at, t in enumerate(TOKENS)])
    made.reset()
    backend, path = get_backend("portable"), tmp_path / "model.pte"
    delegation = backend.lower(export_static(made), static_metadata(made, 0, [1]), path)
    assert delegation.delegates == 0
    backend.prepare()
    program = Program(path)
    found = torch.stack([program.forward(t.view(1, 1), at) for at, t in enumerate(TOKENS)])
    assert compare(found, expected).min_cosine >= 1 - 1e-9


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("coreml", "int4_weight_only"), pytest.param("vulkan", "int8_weight_only", marks=pytest.mark.slow)],
)
def test_a_decoder_lowers_for_other_hardware(make_checkpoint, tmp_path, name, scheme):
    made, backend = decoder(make_checkpoint, scheme), get_backend(name)
    assert backend.supports(quantization(scheme)).ok
    assert not backend.can_execute
    path = tmp_path / "model.pte"
    delegation = backend.lower(export_static(made), static_metadata(made, 0, [1]), path)
    assert path.stat().st_size > 100_000
    if name == "coreml":
        assert (delegation.delegates, delegation.fallback_operators) == (1, {})
    else:  # it has no kernel that writes a token into a cache
        assert delegation.delegates >= 1
        assert set(delegation.fallback_operators) <= {
            "aten::add.Scalar_out",
            "aten::copy_",
            "aten::index.Tensor_out",
            "aten::index_put.out",
        }
        assert delegation.fallback_reasons.keys() == delegation.fallback_operators.keys()
        assert delegation.fallback_reasons["aten::copy_"].startswith("writes a changed buffer back")
    assert "aten::linear" not in str(delegation.fallback_operators)


def encoder(make_checkpoint, scheme):
    q = quantization(scheme)
    folder = make_checkpoint("bert", num_hidden_layers=1, max_position_embeddings=64)
    model = load_model(folder, lambda name, each: quantize_module(name, each, q))
    return StaticEncoder(model, Pooling(), 48)


def test_portable_kernels_embed_as_eager_does(make_checkpoint, tmp_path):
    made = encoder(make_checkpoint, "fp32")
    texts = [TOKENS[:length].tolist() for length in (1, 5, 12)]
    expected = embed_batch(made.model, texts, Pooling())
    backend, path = get_backend("portable"), tmp_path / "model.pte"
    backend.lower(export_static_encoder(made), static_encoder_metadata(made), path)
    program = Program(path)
    assert torch.allclose(torch.stack([embed(program, text) for text in texts]), expected, atol=1e-5)
    with pytest.raises(UserError, match="takes 1 to 48"):
        embed(program, [5] * 49)


@pytest.mark.parametrize(("name", "scheme"), [("coreml", "int4_weight_only"), ("vulkan", "int8_weight_only")])
def test_an_encoder_lowers_whole_for_other_hardware(make_checkpoint, tmp_path, name, scheme):
    made, path = encoder(make_checkpoint, scheme), tmp_path / "model.pte"
    delegation = get_backend(name).lower(export_static_encoder(made), static_encoder_metadata(made), path)
    assert (delegation.delegates, delegation.fallback_operators) == (1, {})
    assert delegation.delegated_operators["aten.embedding"] == 5


@pytest.mark.parametrize("name", ["coreml", "vulkan", "portable"])
def test_activations_quantized_at_run_time_are_refused(name):
    support = get_backend(name).supports(quantization("8da8w"))
    assert not support.ok
    assert support.instead


def test_core_ml_without_its_converter_is_one_sentence(monkeypatch):
    get_backend("coreml").check()
    monkeypatch.setattr("et_pipeline.backends.coreml.find_spec", lambda name: None)
    with pytest.raises(UserError, match="backend=coreml lowers with coremltools, which is not installed"):
        get_backend("coreml").check()
