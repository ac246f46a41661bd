"""A table that embeds tokens and is a linear's weight too lies in the file once."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from et_pipeline.backends import get_backend, xnnpack
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import quiet, runtime_library
from et_pipeline.settings import Quantization

VOCABULARY, WIDTH = 2048, 64
TOKENS = torch.randint(VOCABULARY, (1, 5), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """Tokens to logits, with a constant of the program's own before the table."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Embedding(8, WIDTH)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = nn.Parameter(self.embed.weight.detach().clone())
        self.register_buffer("positions", torch.arange(8).flip(0).contiguous(), persistent=False)

    def forward(self, tokens):
        return self.head(self.steps(self.positions[:5]) + self.embed(tokens))


def recipe(scheme, **changes):
    bits = 32 if scheme == "fp32" else 8
    base = {"group_size": 0, "mapping": "symmetric", "embedding_bits": bits, "embedding_group_size": 0}
    return Quantization(scheme=scheme, **base | changes)


def lower(q, pte, external_weights=False):
    """The logits in the runtime, and the bytes of the files."""
    from torchao.utils import unwrap_tensor_subclass

    torch.manual_seed(0)
    model = Tied().eval().requires_grad_(False)
    for name in ("embed", "head"):
        quantize_module(name, model.get_submodule(name), q)
    pte.parent.mkdir()
    program = torch.export.export(unwrap_tensor_subclass(model), (TOKENS,), strict=False)
    get_backend("xnnpack").lower(program, {}, pte, external_weights=external_weights)
    weights = str(pte.with_suffix(".ptd")) if external_weights else None
    with quiet():
        loaded = runtime_library()._load_program(str(pte), data_path=weights)
        logits = loaded.load_method("forward")((TOKENS,))[0].clone()
    return logits, sum(file.stat().st_size for file in pte.parent.iterdir())


@pytest.mark.parametrize(
    ("scheme", "mapping"),
    [("8da8w", "symmetric"), ("int8_weight_only", "symmetric_no_clipping_error"), ("fp32", "symmetric")],
)
def test_a_tied_head_takes_no_bytes_of_its_own(tmp_path, monkeypatch, scheme, mapping):
    q = recipe(scheme, mapping=mapping)
    logits, size = lower(q, tmp_path / "once" / "model.pte")
    external, beside = lower(q, tmp_path / "beside" / "model.pte", external_weights=True)
    monkeypatch.setattr(xnnpack, "shared_constants", nullcontext)
    expected, twice = lower(q, tmp_path / "twice" / "model.pte")
    assert logits.std() > 0
    assert torch.equal(logits, expected)
    assert torch.equal(external, expected)
    row = WIDTH * 4 if scheme == "fp32" else WIDTH + 4  # integers and their scale
    assert twice - size == VOCABULARY * row
    assert beside - size < 4096  # headers


def test_other_integers_are_another_tensor(tmp_path, monkeypatch):
    logits, size = lower(recipe("8da4w"), tmp_path / "once" / "model.pte")
    monkeypatch.setattr(xnnpack, "shared_constants", nullcontext)
    expected, twice = lower(recipe("8da4w"), tmp_path / "twice" / "model.pte")
    assert torch.equal(logits, expected)
    assert size == twice
