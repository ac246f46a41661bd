"""What is computed of the last token alone, on graphs of torch.export: the same numbers from fewer."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from et_pipeline.bench import families as matrix
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.decoder import Decoder, export_decoder
from et_pipeline.models.last_token import only_last
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.settings import ExportForm

aten = torch.ops.aten
FORM = ExportForm(max_context=64, prefill_chunk=16)
RESULTS = json.loads((Path(__file__).parents[2] / "docs/results/families.json").read_text(encoding="utf-8"))
EQUAL = [each["family"] for each in RESULTS["families"] if each["errors"]]
WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def linear(x):
    return functional.linear(x, WEIGHT)


def heads(x):
    return linear(x).view(1, x.shape[1], 2, 3).transpose(1, 2)


# A function of [1, S, 6], and of how many tokens its linears compute: 1, or all ("S").
CASES = {
    "residual": (lambda x: (x + linear(linear(x).relu() * x))[:, -1:], [1, 1]),
    "norm": (lambda x: (linear(x) * torch.rsqrt(functional.linear(x * x, WEIGHT[:1] ** 2) + 1))[:, -1:], [1, 1]),
    "heads": (lambda x: heads(x)[:, :, -1:] * 2, [1]),
    "heads and back": (lambda x: linear(heads(x).transpose(1, 2).reshape(1, x.shape[1], 6))[:, -1:], [1, 1]),
    "permuted": (lambda x: linear(x).permute(1, 0, 2).unsqueeze(0)[:, -1:], [1]),
    "joined and apart": (lambda x: torch.cat([linear(x), x], -1).split([4, 8], -1)[1][:, -1:], [1]),
    "probabilities": (lambda x: torch.softmax(linear(x), -1)[..., 2:4][:, -1:], [1]),
    "spread": (lambda x: (x + linear(x[:, -1:]).expand(-1, x.shape[1], -1))[:, -1:], [1]),
    "in two ways": (lambda x: linear(x)[:, -1:] + heads(x)[:, :, -1:].reshape(1, 1, 6), [1, 1]),
    "counted from the end": (lambda x: aten.slice.Tensor(linear(x) + x, -2, -1), [1]),
    "twice": (lambda x: ((y := linear(x)) @ y.transpose(1, 2)).relu()[:, -1:, -1:] * 1, ["S"]),
    "twice, with more between": (lambda x: (x @ linear(x).mT).relu()[:, -1:].exp()[:, :, -1:] * 1, ["S"]),
    # Where a token is made of others, all of them are needed.
    "sum so far": (lambda x: linear(linear(x).cumsum(1))[:, -1:], ["S", 1]),
    "over tokens": (lambda x: linear(torch.softmax(linear(x), 1))[:, -1:], ["S", 1]),
    "turned around": (lambda x: linear(linear(x).flip(1))[:, -1:], ["S", 1]),
    "tokens and heads in one": (lambda x: linear(linear(x).view(-1, 3).tanh().view(1, -1, 6))[:, -1:], ["S", 1]),
    "with the first": (lambda x: linear(x)[:, -1:] + linear(x)[:, :1], [1, "S"]),
    "wanted by others": (lambda x: (x1 := linear(x))[:, -1:] + x1.sum(), ["S"]),
    "the last but one": (lambda x: linear(x)[:, -2:-1], ["S"]),
    "a part of which is whole": (
        lambda x: (p := linear(x).chunk(2, -1))[0].exp()[:, -1:] * p[1].cumsum(1)[:, -1:],
        ["S"],
    ),
    "changed in place": (lambda x: (w := linear(x), w.mul_(2)[:, -1:] + w.sum())[1], ["S"]),
    "like another": (lambda x: torch.ones_like(linear(x))[:, -1:] + linear(x).sum(), ["S", "S"]),
    "by itself": (lambda x: functional.linear(h := linear(x)[0], h)[-1:].sum(-1), ["S", "S"]),
    "by the weight": (lambda x: functional.linear(WEIGHT, linear(x)[0])[:, -1:], ["S", 6]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_comes_of_fewer_tokens(case):
    function, expected = CASES[case]

    class Model(nn.Module):
        def forward(self, x):
            return function(x) * 1  # a cut that is the result stays

    dynamic = {"x": {1: Dim("length", min=2, max=16)}}
    program = torch.export.export(Model(), (torch.ones(1, 8, 6),), dynamic_shapes=dynamic)
    only_last(program.graph_module)
    rows = [node.args[0].meta["val"].shape for node in program.graph.nodes if node.target is aten.linear.default]
    tokens = [next((size for size in shape[:-1] if not isinstance(size, int)), None) for shape in rows]
    assert [1 if size is None else "S" for size in tokens] == [1 if size in (1, 6) else "S" for size in expected]
    for length in (2, 5, 16):
        x = torch.randn(1, length, 6, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(program.module()(x), function(x))
    program.run_decompositions()  # which asks whether it is still a program


def test_a_cut_that_is_the_result_stays():
    class Model(nn.Module):
        def forward(self, x):
            return linear(x)[:, -1:]

    dynamic = {"x": {1: Dim("length", min=2, max=16)}}
    program = torch.export.export(Model(), (torch.ones(1, 8, 6),), dynamic_shapes=dynamic)
    only_last(program.graph_module)
    x = torch.ones(1, 5, 6)
    torch.testing.assert_close(program.run_decompositions().module()(x), linear(x)[:, -1:])


def layer_of_all(graph):
    """Linears that compute more than one token after the last keys were read."""
    nodes = list(graph.nodes)
    at = max((n for n, node in enumerate(nodes) if node.target is torch.ops.et_pipeline.first_slots.default), default=0)
    linears = [node for node in nodes[at:] if node.target is aten.linear.default]
    return [node for node in linears if not all(isinstance(size, int) for size in node.meta["val"].shape)]


@pytest.mark.parametrize("family", EQUAL)
def test_the_graph_of_a_family_equals_transformers(family, tmp_path):
    matrix.write_checkpoint(family, tmp_path)
    program = export_decoder(Decoder(matrix.enter(tmp_path), matrix.FORM))
    run, expected = program.module(), matrix.reference(tmp_path)
    # Not token by token: an assertion of torch's, which no lowered program has, wants room for two.
    error = matrix.greatest_error(lambda tokens, start: run(tokens, torch.tensor([start])), expected, (8, 5))
    assert error <= matrix.MOST
    assert layer_of_all(program.graph) == []


@pytest.mark.parametrize("scheme", ["8da4w", "8da8w", "int4_weight_only", "int8_weight_only"])
def test_rounded_linears_of_the_last_layer_have_one_token(make_checkpoint, quantization, scheme):
    model = load_model(make_checkpoint("qwen3"))
    for name, module in model.named_modules():
        quantize_module(name, module, quantization.model_copy(update={"scheme": scheme}))
    program = export_decoder(Decoder(model, FORM))
    assert layer_of_all(program.graph) == []
    linears = [node for node in program.graph.nodes if node.target is aten.linear.default]
    one = [isinstance(node.meta["val"].shape[1], int) for node in linears if node.meta["val"].shape[-1] >= 64]
    first_layer, last_layer, head = [False] * 7, [True, False, False, True, True, True, True], [True]
    assert one == first_layer + last_layer + head  # query, key, value, and what follows
