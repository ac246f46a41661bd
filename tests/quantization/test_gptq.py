import pytest
import torch
from torch import nn

from et_pipeline.quantization import gptq as module
from et_pipeline.quantization.gptq import DAMPING, error_weights, gptq
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.settings import Quantization


@pytest.fixture
def problem():
    """Weights [12, 64], and the Hessian of correlated inputs."""
    torch.manual_seed(0)
    x = torch.randn(500, 64, dtype=torch.float64) @ torch.randn(64, 64, dtype=torch.float64)
    return torch.randn(12, 64), x.T @ x


def damped(hessian):
    return hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def error(weight, integers, scales, hessian):
    steps = scales.double().repeat_interleave(weight.shape[1] // scales.shape[1], 1)
    missed = weight.double() - integers.double() * steps
    return ((missed @ hessian) * missed).sum(1)


def brain_surgeon(weight, hessian, scale):
    """Optimal brain quantization in input order, one output at a time: Frantar et al. 2022, eq. 2 and 3."""
    integers = torch.empty(weight.shape, dtype=torch.int8)
    for row, original in enumerate(weight.double()):
        w, inverse = original.clone(), torch.linalg.inv(hessian)
        for q in range(len(w)):
            integers[row, q] = (w[q] / scale[row]).round().clamp(-8, 7)
            w -= (w[q] - integers[row, q] * scale[row]) / inverse[q, q] * inverse[:, q]
            inverse -= torch.outer(inverse[:, q], inverse[q, :]) / inverse[q, q]
    return integers


def test_integers_are_those_of_optimal_brain_quantization(problem, monkeypatch):
    weight, hessian = problem
    monkeypatch.setattr(module, "SHRINKS", (0.8,))
    monkeypatch.setattr(module, "BLOCK", 24)  # several blocks, the last one shorter
    integers, scales = gptq(weight, error_weights(hessian.clone()), 0, torch.float32)
    assert torch.equal(integers, brain_surgeon(weight, damped(hessian), scales[:, 0].double()))
    assert not torch.equal(integers, (weight / scales).round().clamp(-8, 7).to(torch.int8))


@pytest.mark.parametrize("group_size", [0, 16, 32])
def test_error_is_less_than_of_plain_rounding(problem, group_size):
    weight, hessian = problem
    layer = nn.Linear(64, 12, bias=False)
    layer.weight = nn.Parameter(weight.clone())
    q = Quantization(
        scheme="8da4w",
        group_size=group_size,
        mapping="symmetric_no_clipping_error",
        embedding_bits=8,
        embedding_group_size=0,
    )
    quantize_module("layer", layer, q)
    rounded = error(weight, layer.weight.qdata, layer.weight.scale, hessian)
    integers, scales = gptq(weight, error_weights(hessian.clone()), group_size, layer.weight.scale.dtype)
    assert (scales.shape, scales.dtype) == (layer.weight.scale.shape, layer.weight.scale.dtype)
    assert integers.min() >= -8
    assert integers.max() <= 7
    assert error(weight, integers, scales, hessian).sum() < rounded.sum()
    steps = scales.float().repeat_interleave(64 // scales.shape[1], 1)
    same_scales = (weight / steps).round().clamp(-8, 7)
    assert error(weight, integers, scales, hessian).sum() < error(weight, same_scales, scales, hessian).sum()


def test_each_channel_takes_the_scale_that_ends_best(problem, monkeypatch):
    weight, hessian = problem
    u = error_weights(hessian.clone())
    chosen = error(weight, *gptq(weight, u, 0, torch.float32), damped(hessian))
    for shrink in module.SHRINKS:
        monkeypatch.setattr(module, "SHRINKS", (shrink,))
        alone = error(weight, *gptq(weight, u, 0, torch.float32), damped(hessian))
        assert (chosen <= alone * (1 + 1e-4)).all()


def test_error_weights_are_the_triangle_of_the_inverse(problem, monkeypatch):
    _, hessian = problem
    monkeypatch.setattr(module, "COLUMNS", 24)  # several blocks, the last one shorter
    u = error_weights(hessian.clone())
    assert torch.equal(u, u.triu())
    inverse = u.double().T @ u.double()
    torch.testing.assert_close(damped(hessian) @ inverse, torch.eye(64, dtype=torch.float64), atol=1e-5, rtol=0)


def test_inputs_that_calibration_never_showed_are_rounded_to_the_nearest(problem):
    weight, hessian = problem
    integers, scales = gptq(weight, error_weights(torch.zeros_like(hessian)), 0, torch.float32)
    assert torch.equal(integers, (weight / scales).round().clamp(-8, 7).to(torch.int8))
    dead = hessian.clone()
    dead[5] = dead[:, 5] = 0
    integers, scales = gptq(weight, error_weights(dead), 0, torch.float32)
    assert torch.equal(integers[:, 5], (weight[:, 5] / scales[:, 0]).round().clamp(-8, 7).to(torch.int8))


def test_rows_do_not_depend_on_each_other(problem, monkeypatch):
    weight, hessian = problem
    u = error_weights(hessian.clone())
    whole = gptq(weight, u, 16, torch.bfloat16)
    monkeypatch.setattr(module, "ROWS", 5)
    for one, other in zip(whole, gptq(weight, u, 16, torch.bfloat16), strict=True):
        assert torch.equal(one, other)
