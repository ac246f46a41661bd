import pytest
import torch

from et_pipeline.evaluation.embedding import SAMPLES, TEXTS, cosine, near
from et_pipeline.evaluation.gate import judge_embeddings
from et_pipeline.evaluation.verified import VerifiedEmbedding, Witnessed
from et_pipeline.manifest import EmbeddingAgreement, EmbeddingComparison
from et_pipeline.settings import Gate

GATE = Gate(
    min_cosine_quantized=0.999,
    min_top1_quantized=0.99,
    max_kl_original=0.1,
    max_perplexity_ratio=1.15,
    max_task_drop=1.0,
    min_cosine_original=0.9,
    min_rank_original=0.95,
)


def embeddings(count=9, size=16):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


def test_equal_embeddings_agree_fully():
    found = near(embeddings(), embeddings())
    assert (found.texts, found.max_abs_diff) == (9, 0)
    assert [found.cosine, found.min_cosine, found.rank_correlation] == pytest.approx([1, 1, 1])


def test_rank_correlation_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    found, reference = embeddings(), embeddings() + 0.7 * embeddings().flip(0)
    pairs = [(a, b) for a in range(9) for b in range(a + 1, 9)]
    similar = [[cosine(each[a], each[b]) for a, b in pairs] for each in (found, reference)]
    expected = stats.spearmanr(*similar).statistic
    assert expected < 0.9
    assert near(found, reference).rank_correlation == pytest.approx(expected)


def test_equal_similarities_share_their_rank():
    reference = torch.eye(4)  # all similarities are 0
    reference[1, 0] = 1  # but one
    found = reference.clone()
    assert near(found, reference).rank_correlation == pytest.approx(1)


def test_one_bad_text_shows_in_the_lowest_cosine():
    reference = embeddings()
    found = reference.clone()
    found[3] = -found[3]
    made = near(found, reference)
    assert made.min_cosine == pytest.approx(-1)
    assert made.cosine == pytest.approx(7 / 9)
    assert made.rank_correlation < 0.9


@pytest.mark.parametrize("found", [embeddings(8), embeddings()[:, :8], embeddings() * float("nan"), embeddings(2)])
def test_what_cannot_be_compared(found):
    with pytest.raises(ValueError, match=r"cannot be compared|not finite"):
        near(found, embeddings(len(found)) if len(found) == 2 else embeddings())


def test_the_texts_differ_and_the_samples_are_among_them():
    assert len(set(TEXTS)) == len(TEXTS) >= 30
    assert max(max(pair) for pair in SAMPLES) < len(TEXTS)


def verified(difference=1e-6, **changes):
    perfect = {"texts": 9, "cosine": 1.0, "min_cosine": 1.0, "max_abs_diff": 0.0, "rank_correlation": 1.0}
    sides = {side: EmbeddingAgreement(**perfect | changes.get(side, {})) for side in ("quantized", "original")}
    witness = Witnessed(name="sentence-transformers", version="5", difference=difference, allowed=1e-4)
    return VerifiedEmbedding(witness=witness, eager=sides["original"], agreement=EmbeddingComparison(**sides))


def test_a_reading_that_the_witness_does_not_share_fails():
    assert not judge_embeddings(verified(difference=2e-4), GATE).passed


@pytest.mark.parametrize(
    ("side", "figure", "value", "passed"),
    [
        ("quantized", "cosine", 0.9991, True),
        ("quantized", "cosine", 0.9989, False),
        ("quantized", "min_cosine", 0.9, True),
        ("original", "min_cosine", 0.91, True),
        ("original", "min_cosine", 0.89, False),
        ("original", "rank_correlation", 0.96, True),
        ("original", "rank_correlation", 0.94, False),
        ("quantized", "rank_correlation", 0.0, True),
    ],
)
def test_each_threshold_decides(side, figure, value, passed):
    judged = judge_embeddings(verified(**{side: {figure: value}}), GATE)
    assert judged.passed is passed
    assert len(judged.checks) == 4
