import math

import pytest
import torch

from et_pipeline.evaluation.agreement import compare, merge, negative_log_likelihood


def test_equal_logits_agree_fully():
    logits = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    found = compare(logits, logits)
    assert (found.positions, found.max_abs_diff, found.kl, found.top1) == (5, 0, 0, 1)
    assert found.cosine == pytest.approx(1)


def test_figures_by_hand():
    found = compare(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[math.log(3), 0.0], [0.0, 1.0]]))
    # softmax of the references: (3/4, 1/4) and (s, 1 - s); KL(reference || found)
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    small, large = 1 / (1 + math.e), math.e / (1 + math.e)
    second = small * math.log(small / large) + large * math.log(large / small)
    assert found.kl == pytest.approx((first + second) / 2)
    assert found.top1 == 0.5
    assert found.max_abs_diff == pytest.approx(math.log(3))
    assert found.min_cosine == 0


def test_shift_of_logits_changes_no_probability():
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert compare(logits + 5, logits).kl == pytest.approx(0, abs=1e-12)


def test_merge_equals_comparing_at_once():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 8, generator=generator), torch.randn(7, 8, generator=generator)
    parts = merge([compare(a[:2], b[:2]), compare(a[2:], b[2:])])
    assert parts.model_dump() == pytest.approx(compare(a, b).model_dump())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 3)),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.full((1, 2), math.nan), torch.zeros(1, 2)),
        (torch.zeros(1, 2), torch.full((1, 2), math.inf)),
    ],
)
def test_what_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match="logits"):
        compare(a, b)


def test_negative_log_likelihood_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]))
    assert negative_log_likelihood(logits, [0, 2, 1]) == pytest.approx(-math.log(0.25) - math.log(0.8))
    assert negative_log_likelihood(logits, [0, 2, 1], first=2) == pytest.approx(-math.log(0.8))
    assert negative_log_likelihood(logits, [0, 2, 1], first=3) == 0


def test_merging_nothing():
    with pytest.raises(ValueError, match="no agreement"):
        merge([])
