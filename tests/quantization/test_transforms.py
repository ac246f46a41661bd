from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.prototype.awq.core import AWQObserver

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.checkpoints.skeleton import build_skeleton, fill_computed_buffers
from et_pipeline.errors import UserError
from et_pipeline.quantization import folding, walk
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.folding import awq_scales, rounded, smoothquant_scales
from et_pipeline.quantization.mixed import in_8_bits
from et_pipeline.quantization.rotation import hadamard
from et_pipeline.quantization.sensitivity import Loss, measure
from et_pipeline.quantization.torchao_config import _linear_config, load_quantized, quantize_checkpoint, quantize_module
from et_pipeline.quantization.turned import is_turned, turn_table
from et_pipeline.quantization.walk import Walk
from tests.quantization.test_calibrated import distance, logits, quantize, recipe, texts  # noqa: F401  a fixture

FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 1},
}


@pytest.fixture
def outliers(make_checkpoint):
    """A checkpoint in which the norms, as in real models, make a few channels large."""

    def make(family="llama", **config):
        folder = make_checkpoint(family, initializer_range=0.05, **config)
        path = folder / "model.safetensors"
        weights = load_file(path)
        generator = torch.Generator().manual_seed(1)
        for name, weight in weights.items():
            if "layernorm" in name:
                weights[name] = weight * (1 + 20 * (torch.rand(weight.shape, generator=generator) > 0.9))
            elif name.endswith("bias"):
                weights[name] = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        save_file(weights, path, metadata={"format": "pt"})
        return folder

    return make


def transformed(folder, q, texts, out):  # noqa: F811
    """The float model that is quantized in the end."""
    state = {}

    def keep(name, module):
        state.update({f"{name}.{own}": value.clone() for own, value in module.state_dict().items() if "." not in own})
        module._apply(lambda tensor: tensor.to("meta"), recurse=False)

    def of_a_search(name, module, q):  # AWQ's rounds copies
        if not name:
            quantize_module(name, module, q)

    with (
        torch.no_grad(),
        mock.patch.object(walk, "quantize_module", of_a_search),
        mock.patch.object(folding, "quantize_module", of_a_search),
    ):
        for _ in Walk(folder, q, texts, out, lambda *_: None).parts(keep):
            pass
    model, _ = build_skeleton(Folder(folder))
    fill_computed_buffers(model)
    if is_turned(state):
        turn_table(model)
    model.load_state_dict(state, assign=True)
    return model.eval()


@pytest.mark.parametrize("transform", ["awq", "smoothquant", "rotation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_transform_changes_weights_and_not_answers(outliers, texts, tmp_path, family, transform):  # noqa: F811
    folder = outliers(family, **FAMILIES[family])
    original = load_model(folder)
    found = transformed(folder, recipe(32, transform=transform), texts, tmp_path)
    assert distance(logits(found), logits(original)) < 1e-5
    weights = found.state_dict()
    moved = {name for name, value in original.state_dict().items() if distance(weights[name], value) > 0.01}
    linears = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "input_layernorm"}
    assert {name.split(".")[-2] for name in moved} >= linears


@pytest.mark.parametrize("mixed_bits", [None, 5.0])
def test_a_tied_table_stays_one_in_a_rotated_model(outliers, texts, tmp_path, mixed_bits):  # noqa: F811
    """With 8 bits the head holds the embedding's very numbers, so that a program holds them once."""
    folder = outliers(tie_word_embeddings=True)
    scheme = {} if mixed_bits else {"scheme": "8da8w", "algorithm": "rtn"}
    q = recipe(32 if mixed_bits else 0, transform="rotation", mixed_bits=mixed_bits, **scheme)
    quantize(folder, q, texts, tmp_path)
    model = load_quantized(folder, tmp_path, q)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert torch.equal(embedding.weight.qdata, head.weight.qdata)
    assert torch.equal(embedding.weight.scale, head.weight.scale)
    assert {str(each.turn.weight.target_dtype) for each in (embedding, head)} == {"torch.int4"}
    assert distance(logits(model), logits(load_model(folder))) < (0.3 if mixed_bits else 0.1)


@pytest.mark.parametrize("transform", ["awq", "smoothquant", "rotation"])
def test_layers_of_another_kind_are_refused(make_checkpoint, texts, tmp_path, transform):  # noqa: F811
    with pytest.raises(UserError, match=f"recipe.transform={transform} is for layers of two RMS norms.*gemma3_text"):
        quantize_calibrated(make_checkpoint("gemma3_text"), recipe(transform=transform), texts, tmp_path, print)


@pytest.mark.parametrize("size", [64, 192, 576, 30])
def test_the_matrix_is_orthogonal_and_spreads(size):
    turn = hadamard(size, 3)
    matrix = turn(torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    assert (matrix.abs() < 6 / size**0.5).all()


@pytest.mark.parametrize("group_size", [32, 0])
def test_awq_finds_what_torchao_finds(group_size):
    generator = torch.Generator().manual_seed(0)
    q = recipe(group_size, scheme="int4_weight_only", algorithm="rtn")
    weight = torch.randn(48, 64, generator=generator)
    rows = torch.randn(256, 64, generator=generator) * torch.rand(64, generator=generator).pow(3) * 10
    observer = AWQObserver(weight, None, _linear_config(q))
    observer(rows, None)
    ours = awq_scales([weight], rows.abs().mean(0), rows.T @ rows, lambda w: rounded(w, q))
    assert not torch.equal(ours, torch.ones(64))
    torch.testing.assert_close(ours, observer.calculate_qparams())


def test_smoothquant_gives_inputs_and_weights_the_same_range():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(rows, 64, generator=generator) for rows in (16, 48)]
    largest = torch.rand(64, generator=generator) * 100 + 1
    scales = smoothquant_scales(weights, largest, lambda scales: scales)
    columns = torch.cat(weights).abs().amax(0) * scales
    torch.testing.assert_close(largest / scales, columns)


@pytest.mark.parametrize("changes", [{"transform": "awq"}, {"transform": "smoothquant"}, {"transform": "rotation"}])
def test_outliers_cost_less(outliers, texts, tmp_path, changes):  # noqa: F811
    folder = outliers()
    reference = logits(load_model(folder))
    plain, better = (tmp_path / name for name in "ab")
    plain.mkdir()
    better.mkdir()
    rtn, q = recipe(algorithm="rtn"), recipe(algorithm="rtn", **changes)
    quantize_checkpoint(folder, rtn, plain)
    quantize_calibrated(folder, q, texts if q.calibrated else [], better, lambda *_: None)
    found = distance(logits(load_quantized(folder, better, q)), reference)
    assert found < distance(logits(load_quantized(folder, plain, rtn)), reference)


@pytest.mark.parametrize("transform", ["smoothquant", "rotation"])
def test_rounding_activations_costs_less_beside_8_bits_too(outliers, texts, tmp_path, transform):  # noqa: F811
    folder = outliers()
    reference = logits(load_model(folder))
    found = {}
    for chosen in ("none", transform):
        q = recipe(scheme="8da8w", algorithm="rtn", transform=chosen)
        out = tmp_path / chosen
        out.mkdir()
        quantize_calibrated(folder, q, texts if q.calibrated else [], out, lambda *_: None)
        found[chosen] = distance(logits(load_quantized(folder, out, q)), reference)
    assert found[transform] < found["none"]


def test_bits_are_spent_where_they_help_most():
    errors = {"a": Loss(100, 0.9, 0), "b": Loss(10, 0.5, 0), "c": Loss(1000, 0.2, 0), "d": Loss(100, 0.001, 0)}
    assert set(in_8_bits(errors, recipe(mixed_bits=4.4))) == {"a", "b"}
    assert set(in_8_bits(errors, recipe(mixed_bits=4.1))) == {"b"}
    assert in_8_bits(errors, recipe(32, mixed_bits=4.5)) == {}
    everything = in_8_bits(errors, recipe(32, mixed_bits=8.0))
    assert {name: each.scheme for name, each in everything.items()} == dict.fromkeys(errors, "8da8w")
    with pytest.raises(UserError, match=r"recipe\.mixed_bits=4\.2 is less than the 4\.5 bits"):
        in_8_bits(errors, recipe(32, mixed_bits=4.2))


def test_inputs_that_cost_far_more_than_the_others_stay_floats():
    losses = {str(at): Loss(100, 0.01, 0.001) for at in range(20)}
    losses["out"] = Loss(100, 0.009, 0.5)
    found = in_8_bits(losses, recipe(mixed_bits=4.2))
    assert {name: each.scheme for name, each in found.items()} == {"out": "int8_weight_only"}
    found = in_8_bits(losses, recipe(mixed_bits=8.0))
    assert {each.scheme for name, each in found.items() if name != "out"} == {"8da8w"}
    assert found["out"].scheme == "int8_weight_only"


def test_with_8_bits_on_average_all_have_8():
    losses = {str(at): Loss(96 * (at + 1), 0.01 / (at + 1), 0.0) for at in range(50)}
    assert set(in_8_bits(losses, recipe(96, mixed_bits=8.0))) == set(losses)


def test_mixed_bits_come_closer(outliers, texts, tmp_path):  # noqa: F811
    folder = outliers()
    reference = logits(load_model(folder))
    distances, sizes = [], []
    for bits in (None, 5.0, 7.9):
        q = recipe(mixed_bits=bits)
        out = tmp_path / str(bits)
        out.mkdir()
        quantize(folder, q, texts, out)
        model = load_quantized(folder, out, q)
        distances.append(distance(logits(model), reference))
        linears = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        fine = sum(weight.numel() for weight in linears if weight.target_dtype == torch.int8)
        sizes.append(4 + 4 * fine / sum(weight.numel() for weight in linears))
    assert distances[0] > distances[1] > distances[2]
    assert sizes[0] == 4 < sizes[1] <= 5 < sizes[2] <= 7.9


@pytest.mark.parametrize("walks", [measure, quantize_calibrated])
def test_a_walk_reports_how_far_it_is(tiny_llama, texts, tmp_path, walks):  # noqa: F811
    ticks = []
    walks(tiny_llama, recipe(), texts, tmp_path, lambda *at: ticks.append(at))
    assert [at for at, _ in ticks] == list(range(1, len(ticks) + 1))
    assert {of for _, of in ticks} == {len(ticks)}
