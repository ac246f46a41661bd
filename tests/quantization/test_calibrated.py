from unittest import mock

import pytest
import torch
from torch import nn

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.quantization import calibrated, mixed
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.sensitivity import measure
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.settings import Quantization


def quantize(folder, q, texts, out):
    """As the stages do it: what a mixed recipe goes by is measured before."""
    losses = None if q.mixed_bits is None else measure(folder, q, texts, out, lambda *_: None)
    quantize_calibrated(folder, q, texts, out, lambda *_: None, losses)


def recipe(group_size=0, **changes):
    settings = {
        "scheme": "8da4w",
        "group_size": group_size,
        "mapping": "symmetric_no_clipping_error",
        "embedding_bits": 8,
        "embedding_group_size": 0,
        "algorithm": "gptq",
    }
    return Quantization(**{**settings, **changes})


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 256, (length,), generator=generator).tolist() for length in (40, 24, 40, 40, 33) * 8]


def logits(model):
    with torch.no_grad():
        return model(torch.arange(2, 130).reshape(2, 64)).logits


def distance(found, reference):
    return ((found - reference).norm() / reference.norm()).item()


FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {
        "sliding_window": 8,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 32},
    "qwen3_5_text": {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_come_closer_to_the_original_than_by_plain_rounding(make_checkpoint, texts, tmp_path, family):
    folder = make_checkpoint(family, initializer_range=0.05, **FAMILIES[family])
    reference = logits(load_model(folder))
    for name in ("gptq", "rtn"):
        (tmp_path / name).mkdir()
    ticks = []
    quantize_calibrated(folder, recipe(), texts, tmp_path / "gptq", lambda *at: ticks.append(at))
    quantize_checkpoint(folder, recipe(algorithm="rtn"), tmp_path / "rtn")
    assert sorted(path.name for path in (tmp_path / "gptq").iterdir()) == ["quantized-00000.pt"]
    assert ticks[-1][0] == ticks[-1][1] == len(ticks)
    found = distance(logits(load_quantized(folder, tmp_path / "gptq", recipe())), reference)
    assert found < distance(logits(load_quantized(folder, tmp_path / "rtn", recipe())), reference)


def test_each_linear_is_calibrated_by_the_inputs_that_it_gets(tiny_llama, texts, tmp_path):
    """The Hessians are those of the quantized model's own inputs, so everything before a linear was quantized first."""
    seen = []

    def note(hessian):
        seen.append(hessian.clone())
        return error_weights(hessian)

    error_weights = calibrated.error_weights
    with mock.patch.object(calibrated, "error_weights", note):
        quantize_calibrated(tiny_llama, recipe(32), texts, tmp_path, lambda *_: None)
    model = load_quantized(tiny_llama, tmp_path, recipe(32))
    sums = {}

    def add(name):
        def hook(_, args):
            rows = args[0].reshape(-1, args[0].shape[-1])
            sums[name] = sums.get(name, 0) + (rows.T @ rows).double()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(("k_proj", "v_proj", "up_proj")):
            module.register_forward_pre_hook(add(name))
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([text]))
    assert len(seen) == len(sums) == 2 * 4 + 1
    for name, hessian in zip(sums, seen, strict=True):
        assert distance(hessian, sums[name]) < 1e-3, name


def test_memory_holds_one_layer(tiny_llama, texts, tmp_path):
    held, walked = [], []
    original = calibrated._gptq

    def count(group, names, calls, q):
        walked.append(calls[0].args[0])  # the decoder; of the head, the norm before it
        decoder = walked[0]
        held.append([any(not p.is_meta for p in layer.parameters()) for layer in decoder.layers])
        original(group, names, calls, q)

    with mock.patch.object(calibrated, "_gptq", count):
        quantize_calibrated(tiny_llama, recipe(), texts, tmp_path, lambda *_: None)
    assert held == [[True, False]] * 4 + [[False, True]] * 4 + [[False, False]]


def test_same_bytes_again(tiny_llama, texts, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        quantize_calibrated(tiny_llama, recipe(), texts, tmp_path / name, lambda *_: None)
    first, again = (tmp_path / name / "quantized-00000.pt" for name in "ab")
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [0, 32])
@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "rtn"},
        {"algorithm": "hqq"},
        {"transform": "none"},
        {"transform": "awq"},
        {"transform": "smoothquant"},
        {"transform": "rotation"},
        {"mixed_bits": 5.5},
        {"mixed_bits": 5.5, "transform": "rotation", "tied": True},
        {"mixed_bits": 6.5, "outlier": 1},  # some of the 8-bit linears read their inputs as floats
        {"mixed_bits": 8.0, "outlier": 0},
    ],
)
def test_the_program_computes_with_these_integers(make_checkpoint, texts, tmp_path, monkeypatch, group_size, changes):
    from et_pipeline.backends import get_backend
    from et_pipeline.models.decoder import Decoder, export_decoder, metadata
    from et_pipeline.runtime.program import Program
    from et_pipeline.settings import ExportForm

    changes, tied = {**changes}, changes.get("tied", False)
    changes.pop("tied", None)
    monkeypatch.setattr(mixed, "OUTLIER", outlier := changes.pop("outlier", mixed.OUTLIER))
    folder = make_checkpoint("llama", num_hidden_layers=1, initializer_range=0.05, tie_word_embeddings=tied)
    q = recipe(group_size, **changes)
    quantize(folder, q, texts if q.calibrated else [], tmp_path)
    model = load_quantized(folder, tmp_path, q)
    weights = [module.weight for _, module in model.named_modules() if type(module) is torch.nn.Linear]
    floats = [weight for weight in weights if getattr(weight, "activation_quantization", None) is None]
    assert len(floats) == 8 if outlier == 0 else bool(floats) == (outlier == 1)
    tokens = torch.arange(2, 18).unsqueeze(0)
    with torch.no_grad():
        expected = model(tokens).logits[0, -1]
    decoder = Decoder(model, ExportForm(max_context=64, prefill_chunk=16))
    get_backend("xnnpack").lower(export_decoder(decoder), metadata(decoder, 0, [1]), tmp_path / "model.pte")
    found = Program(tmp_path / "model.pte").forward(tokens, 0)
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected, dim=0) > 0.9999
