"""Where layers compute."""

import pytest
import torch

from et_pipeline.quantization import walk
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.sensitivity import measure
from et_pipeline.quantization.torchao_config import load_quantized
from tests.make_prequantized import write_gptq
from tests.quantization.elsewhere import DEVICE, Elsewhere, elsewhere
from tests.quantization.test_calibrated import FAMILIES, recipe, texts  # noqa: F401  a fixture


def everything(folder, q, texts, out):  # noqa: F811
    """What the stages compute of a checkpoint: the losses, and the quantized weights."""
    losses = None if q.mixed_bits is None else measure(folder, q, texts, out, lambda *_: None)
    figures = quantize_calibrated(folder, q, texts, out, lambda *_: None, losses)
    return losses, figures, load_quantized(folder, out, q).state_dict()


RECIPES = {
    "gptq": recipe(32),
    "one scale per channel": recipe(),
    "awq": recipe(32, transform="awq", algorithm="rtn"),
    "smoothquant": recipe(scheme="8da8w", transform="smoothquant", algorithm="rtn"),
    "hqq": recipe(32, algorithm="hqq", transform="rotation"),
    "mixed": recipe(32, transform="rotation", mixed_bits=6.0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_gpu_computes_the_layers_and_gives_what_the_cpu_does(make_checkpoint, texts, tmp_path, name):  # noqa: F811
    folder = make_checkpoint("llama", initializer_range=0.05, tie_word_embeddings=True)
    _same(folder, RECIPES[name], texts[:10], tmp_path)


@pytest.mark.parametrize("family", ["phi3", "gemma3_text"])
def test_families_on_a_gpu(make_checkpoint, texts, tmp_path, family):  # noqa: F811
    _same(make_checkpoint(family, initializer_range=0.05, **FAMILIES[family]), recipe(32), texts[:10], tmp_path)


def test_integers_of_a_checkpoint_on_a_gpu(make_checkpoint, texts, tmp_path):  # noqa: F811
    folder = write_gptq(make_checkpoint("llama", num_hidden_layers=1, initializer_range=0.05), tmp_path / "stored")
    _same(folder, recipe(32, mixed_bits=6.0), texts[:10], tmp_path)


def _same(folder, q, texts, tmp_path):  # noqa: F811
    for each in ("there", "here"):
        (tmp_path / each).mkdir()
    with elsewhere():
        losses, figures, weights = everything(folder, q, texts, tmp_path / "there")
    with elsewhere(torch.device("cpu")):
        expected = everything(folder, q, texts, tmp_path / "here")
    assert (losses, figures) == expected[:2]
    assert weights.keys() == expected[2].keys()
    for name, weight in weights.items():
        parts = getattr(weight, "tensor_data_names", [])
        assert all(torch.equal(getattr(weight, part), getattr(expected[2][name], part)) for part in parts), name
        assert parts or torch.equal(weight, expected[2][name]), name
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names
    for name in names:  # nothing of the files says where they were made
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_the_device_of_these_tests_takes_no_tensor_of_the_cpu():
    with elsewhere():
        there = torch.ones(2, 2).to(DEVICE)
        assert isinstance(there, Elsewhere)
        with pytest.raises(RuntimeError, match="two devices"):
            there @ torch.ones(2, 2)
        with pytest.raises(RuntimeError, match="generator"):
            torch.multinomial(there, 1, generator=torch.Generator())
        assert torch.equal((there @ there).cpu(), torch.full((2, 2), 2.0))


def test_layers_compute_on_a_gpu_where_there_is_one(monkeypatch):
    for found, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        assert walk.processor() == torch.device(device)
