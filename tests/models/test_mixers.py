"""Layers that remember states of fixed size, against transformers' unmodified models: eager, exported, lowered."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare
from et_pipeline.forecast import state_bytes
from et_pipeline.models.decoder import Decoder, export_decoder, metadata
from et_pipeline.models.mixers import _chunk, _levels, _softplus, _solve
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm
from et_pipeline.states import goes_back

FORM = ExportForm(max_context=64, prefill_chunk=16)
FED = 60
TOKENS = torch.randint(2, 512, (1, FED), generator=torch.Generator().manual_seed(0))
TOKENS[0, 8:30] = 7  # the same key again and again, for which powers of the delta rule's matrix would grow
FAMILIES = {
    "lfm2": {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_hidden_layers": 3,
        "block_multiple_of": 32,
        "conv_bias": True,
        "tie_word_embeddings": True,
    },
    "qwen3_5_text": {
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
    },
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba"],
        "num_hidden_layers": 3,
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
        "mamba_chunk_size": 8,
        "position_embedding_type": "rope",
    },
}
# So far, relative to the largest logit, is transformers from itself when it is fed a token at a time; measured.
FLOOR = {"lfm2": 2.1e-6, "qwen3_5_text": 1.2e-5, "granitemoehybrid": 1.4e-5}


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    """Name of a family above to its checkpoint, and transformers' logits."""
    made = {}

    def make(name):
        if name not in made:
            folder = make_checkpoint(name, **FAMILIES[name])
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                made[name] = folder, model(TOKENS).logits[0]
        return made[name]

    return make


def check(forward, expected, name):
    """Fed in pieces, one sequence after the other: each begins with what the last has left."""
    for chunk in (16, 7, 1):
        rows, positions = [], []
        with torch.no_grad():
            for start in range(0, FED, chunk):
                piece = TOKENS[:, start : start + chunk].contiguous()
                rows.append(forward(piece, start).reshape(-1))
                positions.append(start + piece.shape[1] - 1)
        far = (torch.stack(rows) - expected[positions]).abs().max() / expected.abs().max()
        assert far < 2 * FLOOR[name], (chunk, far)


@pytest.mark.parametrize("name", FAMILIES)
def test_decoder_equals_transformers(checkpoint, name):
    folder, expected = checkpoint(name)
    decoder = Decoder(load_model(folder), FORM)
    check(lambda tokens, start: decoder(tokens, torch.tensor([start])), expected, name)
    with torch.no_grad():  # between calls it is what it was
        torch.testing.assert_close(decoder.model(TOKENS).logits[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_program_in_the_runtime_equals_transformers(checkpoint, name, tmp_path):
    from et_pipeline.backends.xnnpack import XnnpackBackend

    folder, expected = checkpoint(name)
    decoder = Decoder(load_model(folder), FORM)
    made = XnnpackBackend().lower(export_decoder(decoder), metadata(decoder, 0, (1,)), tmp_path / "model.pte")
    program = Program(tmp_path / "model.pte", threads=1)
    assert not program.goes_back
    check(program.forward, expected, name)
    assert not {"aten::cumsum.out", "aten::convolution.out", "aten::bmm.out"} & made.fallback_operators.keys()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_forecast_of_the_states_is_their_size(checkpoint, name, kind):
    form = ExportForm(max_context=100, prefill_chunk=16, kv_cache=kind)
    decoder = Decoder(load_model(checkpoint(name)[0]), form)
    size = sum(buffer.nbytes for key, buffer in decoder.named_buffers() if "_cache_" in key)
    found = state_bytes(decoder.states, form)
    assert sum(found.values()) == size
    assert "convolution" in found
    assert ("recurrent" in found) == (name != "lfm2")
    assert not goes_back(decoder.states)


def test_the_small_models_are_sensitive_to_their_states(checkpoint):
    for name in FAMILIES:
        folder, expected = checkpoint(name)
        decoder = Decoder(load_model(folder), FORM)
        with torch.no_grad():
            decoder(TOKENS[:, :16], torch.tensor([0]))
            for key, buffer in decoder.named_buffers():
                if key.startswith(("convolution_cache", "recurrent_cache")):
                    buffer.zero_()
            found = decoder(TOKENS[:, 16:17], torch.tensor([16])).reshape(1, -1)
        assert compare(found, expected[16:17]).cosine < 0.999, name


@pytest.mark.parametrize("tokens", [1, 2, 5, 16])
def test_solve_equals_torch(tokens):
    generator = torch.Generator().manual_seed(0)
    below = torch.rand(3, tokens, tokens, generator=generator)
    below[1] = 1.0  # whose powers are binomial coefficients
    right = torch.randn(3, tokens, 4, generator=generator)
    found = _solve(below, _chunk(torch.arange(5, 5 + tokens), _levels(16)), right)
    whole = below.tril(-1).double() + torch.eye(tokens, dtype=torch.float64)
    torch.testing.assert_close(found.double(), torch.linalg.solve(whole, right.double()), atol=1e-5, rtol=1e-5)


def test_solve_of_a_whole_prompt_of_one_word():
    below, right = torch.ones(1, 128, 128), torch.randn(1, 128, 4, generator=torch.Generator().manual_seed(0))
    found = _solve(below, _chunk(torch.arange(128), _levels(128)), right)
    expected = right - torch.cat([torch.zeros(1, 1, 4), right[:, :-1]], 1)  # its inverse has two diagonals
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_softplus_equals_torch_for_small_and_large():
    x = torch.linspace(-30, 30, 1001)
    torch.testing.assert_close(_softplus(x), torch.nn.functional.softplus(x, threshold=50), atol=1e-7, rtol=1e-6)


def far_from_transformers(folder):
    """The greatest error of a logit in chunks of 16, relative to the greatest; theirs in double precision."""
    decoder, model = (
        Decoder(load_model(folder), FORM),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64),
    )
    rows = []
    with torch.no_grad():
        # Their cache asks a layer of attention how many tokens it holds, and there may be none.
        expected = model.eval()(TOKENS, use_cache=False).logits[0].float()
        for start in range(0, FED, 16):
            rows.append(decoder(TOKENS[:, start : start + 16].contiguous(), torch.tensor([start])).reshape(-1))
    return (torch.stack(rows) - expected[[15, 31, 47, 59]]).abs().max() / expected.abs().max()


@pytest.mark.parametrize("name", ["qwen3_5_text", "granitemoehybrid"])
def test_the_activation_behind_a_convolution_is_the_configs(make_checkpoint, name):
    assert far_from_transformers(make_checkpoint(name, **FAMILIES[name], hidden_act="gelu")) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_mixers_alone_equals_transformers(make_checkpoint, name):
    kind = {"lfm2": "conv", "qwen3_5_text": "linear_attention", "granitemoehybrid": "mamba"}[name]
    settings = {**FAMILIES[name], "num_hidden_layers": 1, "layer_types": [kind]}
    assert far_from_transformers(make_checkpoint(name, **settings)) < 1e-4
