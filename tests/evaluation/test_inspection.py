"""Where the bytes of a quantized model are, and how far its weights and layers are off."""

import pytest
import torch

from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.evaluation.inspection import layer_errors, part_bytes, streams, weight_errors
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.torchao_config import load_quantized, quantize_checkpoint
from et_pipeline.settings import Quantization

TOKENS = list(range(2, 34))
EIGHT = Quantization(
    scheme="8da8w", group_size=0, mapping="symmetric", embedding_bits=8, embedding_group_size=0, algorithm="rtn"
)
FOUR = EIGHT.model_copy(
    update={"scheme": "8da4w", "group_size": 32, "mapping": "symmetric_no_clipping_error", "embedding_bits": 32}
)


@pytest.fixture(scope="module")
def original(tiny_llama):
    return streams(stream_model(tiny_llama), TOKENS, 64)


def made(folder, out, q):
    if q.transform == "none":
        quantize_checkpoint(folder, q, out)
    else:
        quantize_calibrated(folder, q, [], out, lambda done, total: None)
    return load_quantized(folder, out, q)


def test_bytes_are_integers_and_their_scales(tiny_llama, tmp_path):
    model = made(tiny_llama, tmp_path, FOUR)
    width, values, inner, vocabulary = 128, 64, 256, 512
    attention = 2 * (2 * width * width + 2 * values * width)
    feed_forward = 2 * 3 * width * inner
    assert part_bytes(model, FOUR) == {
        "embedding": 4 * vocabulary * width,
        "attention": attention // 2 + attention // 32 * 2,
        "feed-forward": feed_forward // 2 + feed_forward // 32 * 2,
        "head": vocabulary * width // 2 + vocabulary * width // 32 * 2,
    }


@pytest.mark.parametrize(
    ("changes", "own"), [({}, False), ({"algorithm": "hqq"}, True), ({"embedding_bits": 32}, True)]
)
def test_a_tied_head_takes_no_bytes_of_its_own_where_the_numbers_are_the_embeddings(tiny_llama, tmp_path, changes, own):
    q = EIGHT.model_copy(update=changes)
    assert part_bytes(made(tiny_llama, tmp_path, q), q)["head"] == (512 * (128 + 4) if own else 0)


def test_weight_errors_are_those_of_the_whole_model(tiny_llama, tmp_path):
    model = made(tiny_llama, tmp_path, FOUR)
    whole = load_model(tiny_llama)
    found = weight_errors(tiny_llama, model, FOUR)
    linears = {name: each.weight for name, each in whole.named_modules() if isinstance(each, torch.nn.Linear)}
    assert found.keys() == linears.keys()
    assert len(found) == 15
    for name, weight in linears.items():
        off = model.get_submodule(name).weight.dequantize() - weight
        assert found[name] == pytest.approx((off.norm() / weight.norm()).item(), rel=1e-5)
        assert 0.03 < found[name] < 0.2


def test_layers_of_the_original_are_not_off(tiny_llama, original):
    plain = EIGHT.model_copy(update={"scheme": "fp32", "embedding_bits": 32})
    found = layer_errors(streams(load_model(tiny_llama), TOKENS, 64), original, plain)
    assert len(found) == 2
    assert max(found) < 1e-5


def test_rotated_weights_and_layers_are_compared_with_rotated_ones(tiny_llama, original, tmp_path):
    q = EIGHT.model_copy(update={"transform": "rotation"})
    model = made(tiny_llama, tmp_path, q)
    assert max(weight_errors(tiny_llama, model, q).values()) < 0.02
    turned = streams(model, TOKENS, 64)
    assert max(layer_errors(turned, original, q)) < 0.1
    assert min(layer_errors(turned, original, EIGHT)) > 1  # were the turn forgotten


def test_scaled_weights_are_not_compared(tiny_llama):
    q = FOUR.model_copy(update={"transform": "awq"})
    assert weight_errors(tiny_llama, None, q) == {}
