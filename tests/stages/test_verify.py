"""The parts of `verify` that its end-to-end runs do not show one by one."""

import pytest
import torch
from torch import nn

from et_pipeline.settings import ExportForm
from et_pipeline.stages.verify import LONG_END, _long_text, _nudged


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
