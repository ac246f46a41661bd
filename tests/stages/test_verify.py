"""The parts of `verify` that its end-to-end runs do not show one by one."""

import pytest
import torch
from torch import nn

from et_pipeline.evaluation.agreement import compare
from et_pipeline.models.checkpoint import load_model
from et_pipeline.models.decoder import Decoder
from et_pipeline.settings import ExportForm
from et_pipeline.stages.verify import LONG_END, _eager_logits, _long_text, _nudged


@pytest.mark.parametrize(
    ("windows", "context", "chunk", "length"),
    [
        ((None, None), 2048, 128, 384),  # three calls
        ((None, None), 300, 128, 300),
        ((512, None), 2048, 128, 768),  # the window is full, and the ring has gone round
        ((512, 1024), 4096, 128, 1280),
        ((4096, None), 2048, 128, 384),  # longer than the context: no ring
        ((None,), 128, 128, 0),  # one call takes it all
        ((None,), 128 + LONG_END, 128, 0),
    ],
)
def test_a_long_text_fills_windows_and_takes_several_calls(windows, context, chunk, length):
    text = _long_text([[1, 2, 3], [4, 5]], windows, ExportForm(max_context=context, prefill_chunk=chunk))
    assert len(text) == length
    assert text[:7] == [1, 2, 3, 4, 5, 1, 2][:length]


def test_nudged_changes_the_last_bit_and_only_within_the_context():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), torch.randn(1, 64)
    with torch.no_grad():
        plain = model(x)
        with _nudged(model):
            nudged = model(x)
        assert torch.equal(model(x), plain)
    assert not torch.equal(nudged, plain)
    assert torch.allclose(nudged, plain, atol=1e-5)


def test_reference_rounds_keys_and_values_as_the_programs_cache_does(make_checkpoint):
    model = load_model(make_checkpoint("llama", num_hidden_layers=1))
    sequences = [list(range(2, 42)), list(range(50, 61))]  # one is padded
    exact, half, int8 = (
        torch.cat(_eager_logits(model, 64, sequences, lambda _: None, kv_cache=kind))
        for kind in ("fp32", "fp16", "int8")
    )
    decoder = Decoder(model, ExportForm(max_context=64, prefill_chunk=16, kv_cache="int8"))
    with torch.no_grad():
        stepwise = torch.cat(
            [decoder(torch.tensor([[i]]), torch.tensor([at]))[0] for ids in sequences for at, i in enumerate(ids)]
        )
    near, far = compare(int8, stepwise), compare(exact, stepwise)
    assert near.min_cosine >= 0.99999
    assert 0 < near.kl < far.kl / 10
    assert 0 < compare(half, exact).kl < compare(int8, exact).kl
