"""What the KV cache stores, against transformers' own attention over keys and values rounded the same way."""

from collections import Counter
from functools import partial

import pytest
import torch

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare
from et_pipeline.evaluation.rounded_cache import RoundedCache
from et_pipeline.forecast import kv_cache_bytes
from et_pipeline.models.decoder import Decoder, export_decoder, load_program, save_program
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm

TOKENS = torch.randint(2, 512, (1, 90), generator=torch.Generator().manual_seed(0))
MODELS = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 32},
}
KINDS = ("fp32", "fp16", "int8")
CHUNKS = (16, 7, 1)


def form(kind):
    return ExportForm(max_context=100, prefill_chunk=16, kv_cache=kind)


def reference(model, kind):
    with torch.no_grad():
        return model(TOKENS, past_key_values=RoundedCache(model.config, kind), use_cache=True).logits[0]


def feed(forward, chunk):
    """Logits after each piece, and the pieces' last positions."""
    ends = [min(start + chunk, TOKENS.shape[1]) for start in range(0, TOKENS.shape[1], chunk)]
    with torch.no_grad():
        rows = [
            forward(TOKENS[:, start:end], start).reshape(-1) for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
    return torch.stack(rows), [end - 1 for end in ends]


@pytest.fixture(scope="module")
def checkpoints(make_checkpoint):
    return {name: make_checkpoint(name, num_hidden_layers=1, **settings) for name, settings in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_decoder_computes_with_what_it_stores(checkpoints, name, kind):
    model = load_model(checkpoints[name])
    expected, exact = reference(model, kind), reference(model, "fp32")
    assert (kind == "fp32") == torch.equal(expected, exact)  # rounding shows, or the comparison below says nothing
    decoder = Decoder(model, form(kind))
    for chunk in CHUNKS:
        found, positions = feed(lambda tokens, start: decoder(tokens, torch.tensor([start])), chunk)
        # A number at the edge between two roundings falls to either side.
        near, far = compare(found, expected[positions]), compare(found, exact[positions])
        assert near.min_cosine >= 0.99999, (chunk, near)
        assert kind == "fp32" or near.kl < far.kl, (chunk, near, far)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context", "chunk"), [(100, 16), (100, 1), (33, 20)])
def test_forecast_of_the_cache_is_its_size(checkpoints, name, kind, context, chunk):
    given = ExportForm(max_context=context, prefill_chunk=chunk, kv_cache=kind)
    decoder = Decoder(load_model(checkpoints[name]), given)
    size = sum(buffer.nbytes for key, buffer in decoder.named_buffers() if "_cache_" in key)
    assert size == kv_cache_bytes(decoder.states, given)


def test_empty_caches_of_every_type_survive_a_file(checkpoints, tmp_path):
    save_program(export_decoder(Decoder(load_model(checkpoints["llama"]), form("int8"))), tmp_path)
    caches = {name: tensor for name, tensor in load_program(tmp_path).constants.items() if "_cache_" in name}
    assert {tensor.dtype for tensor in caches.values()} == {torch.int8, torch.float32}
    assert len(caches) == 4
    assert not any(tensor.any() for tensor in caches.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_program_computes_with_what_it_stores(checkpoints, lower_checkpoint, name, kind):
    """In the real runtime, in three ways of feeding, past the window of a ring; unquantized, so that all loss shows."""
    lowered = lower_checkpoint(checkpoints[name], form(kind), scheme="fp32", group_size=0, embedding_bits=32)
    model = load_model(checkpoints[name], partial(quantize_module, q=lowered.quantization))
    expected, exact = reference(model, kind), reference(model, "fp32")
    program = Program(lowered.pte, threads=1)
    for chunk in CHUNKS:
        found, positions = feed(lambda tokens, start: program.forward(tokens.contiguous(), start), chunk)
        near, far = compare(found, expected[positions]), compare(found, exact[positions])
        assert near.min_cosine >= 0.99999, (chunk, near)
        assert near.kl < far.kl, (chunk, near, far)


def test_beside_the_delegate_is_what_the_new_tokens_need(checkpoints, tmp_path):
    """Nothing there goes over all that is cached, as it would on one thread; `empty` has nothing to do."""
    outside = []
    for kind in ("fp32", "int8"):
        decoder = Decoder(load_model(checkpoints["llama"]), form(kind))
        lowered = get_backend("xnnpack").lower(export_decoder(decoder), {}, tmp_path / "model.pte")
        outside.append(Counter(lowered.fallback_operators))
    assert outside[1] - outside[0] == {
        "aten::_to_copy.out": 4,
        "aten::amax.out": 1,
        "aten::cat.out": 1,
        "aten::empty.out": 4,
        "aten::full_like.out": 1,
        "llama::update_cache.out": 2,
        "quantized_decomposed::choose_qparams_per_token_asymmetric.out": 1,
        "quantized_decomposed::quantize_per_token.out": 2,
    }
