import math

import pytest

from et_pipeline import manifest
from et_pipeline.evaluation.agreement import interval, over_sequences
from et_pipeline.evaluation.gate import judge, undecided
from et_pipeline.evaluation.verified import Losses, OnText, Verified, Witnessed
from et_pipeline.settings import Gate

GATE = Gate(
    min_cosine_quantized=0.999,
    min_top1_quantized=0.99,
    max_kl_original=0.1,
    max_perplexity_ratio=1.2,
    max_task_drop=1.0,
)
WAYS = ("one_piece", "chunked", "token_by_token")


def near(cosine=1.0, top1=1.0, kl=0.0, positions=10):
    return manifest.Agreement(positions=positions, cosine=cosine, min_cosine=cosine, max_abs_diff=0.0, kl=kl, top1=top1)


def figures(
    cosine=1.0, top1=1.0, kl=(0.0, 0.0), deployed=99.0, rounding=None, long=1.0, difference=1e-6, ratio=1.0, text=None
):
    score = manifest.TextScore(perplexity=9.0, kl=text or 0.0, kl_interval=None, top1=1.0)
    return Verified(
        witness=Witnessed(name="transformers", version="5", difference=difference, allowed=1e-4),
        eager=[near(kl=each) for each in kl],
        quantized={way: [near(cosine, top1)] * 2 for way in WAYS},
        original={way: [near(cosine, top1, each) for each in kl] for way in WAYS},
        rounding=rounding and near(*rounding),
        long=long and near(long),
        losses=[Losses(tokens=10, original=10.0, deployed=10.0 + 10 * math.log(ratio))] * 2,
        text=None if text is None else OnText(tokens=10, original=9.0, quantized=score, deployed=score),
        tasks={"chat": manifest.TaskScore(original=99.0, deployed=deployed, items=100)},
    )


def test_judge_passes_a_good_bundle():
    verdict = judge(figures(), GATE)
    assert verdict.passed
    assert len(verdict.checks) == 11
    assert len(judge(figures(long=None), GATE).checks) == 10
    assert len(judge(figures(difference=None), GATE).checks) == 10  # nothing but our own reader reads it


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"cosine": 0.998}, {"cosine to quantized eager"}),
        ({"top1": 0.5}, {"top-1 with quantized eager"}),
        ({"long": 0.998}, {"cosine to quantized eager"}),
        ({"kl": (0.2, 0.2)}, {"KL to original"}),
        ({"kl": (0.0, 0.19)}, {"KL to original"}),  # the mean is below, and nothing is sure
        ({"ratio": 1.3}, {"perplexity of the original's answers"}),
        ({"text": 0.2}, {"KL to original on the text"}),
        ({"difference": 2e-4}, {"difference of our reading of the original from transformers"}),
        ({"deployed": 97.9}, {"accuracy drop in points"}),
    ],
)
def test_judge_names_what_fails(change, failed):
    verdict = judge(figures(**change), GATE)
    assert not verdict.passed
    assert {check.name.split(",")[0] for check in verdict.checks if not check.passed} == failed


def test_a_gain_in_accuracy_is_no_fault():
    assert judge(figures(deployed=100.0), GATE).passed


def test_top1_with_the_original_decides_nothing():
    found = figures()
    low = {way: [near(top1=0.5)] * 2 for way in WAYS}
    assert judge(found.model_copy(update={"original": low}), GATE).passed


def test_twice_the_distance_that_rounding_alone_makes_is_allowed():
    fine, rough = (0.9999, 1.0), (0.998, 0.9)
    assert judge(figures(cosine=0.9961, top1=0.81, long=0.9961, rounding=rough), GATE).passed
    assert not judge(figures(cosine=0.9959, rounding=rough), GATE).passed
    assert not judge(figures(top1=0.6, rounding=rough), GATE).passed
    assert judge(figures(top1=0.1, rounding=(0.9999, 0.2)), GATE).passed
    assert not judge(figures(cosine=0.9989, rounding=fine), GATE).passed, (
        "the recipe's threshold stays where it is lower"
    )


@pytest.mark.parametrize(
    ("tokens", "differ", "passed"), [(66, 0, True), (66, 2, True), (66, 3, False), (866, 14, True), (866, 15, False)]
)
def test_of_few_tokens_one_may_differ(tokens, differ, passed):
    found = figures()
    same = near(top1=1 - differ / tokens, positions=tokens)
    ways = {**found.quantized, "one_piece": [same]}
    assert judge(found.model_copy(update={"quantized": ways}), GATE).passed == passed


@pytest.mark.parametrize(
    ("kl", "open_"), [((0.0, 0.0), False), ((0.0, 0.19), True), ((0.05, 0.16), True), ((0.3, 0.4), False)]
)
def test_more_evidence_is_asked_for_while_a_threshold_lies_within_an_interval(kl, open_):
    assert undecided(judge(figures(kl=kl), GATE)) == open_


def test_figures_of_more_sequences_narrow_the_interval():
    few = figures(kl=(0.02, 0.1))
    many = few.joined(few).joined(few)
    assert many.agreement.original.chunked.positions == 6 * 10
    assert many.agreement.original.chunked.kl == pytest.approx(0.06)
    (low, high), (lower, higher) = (each.agreement.original.chunked.kl_interval for each in (many, few))
    assert lower <= low < 0.06 < high <= higher
    assert len(many.losses) == 6


def test_an_interval_is_that_of_scipys_bootstrap():
    """Of a ratio of sums over clusters of unequal length, by the percentile method."""
    numpy, stats = pytest.importorskip("numpy"), pytest.importorskip("scipy.stats")
    generator = numpy.random.default_rng(1)
    tokens = generator.integers(20, 80, 40).astype(float)
    sums = tokens * generator.gamma(2.0, 0.05, 40)

    def ratio(values, counts, axis):
        return values.sum(axis) / counts.sum(axis)

    theirs = stats.bootstrap(
        (sums, tokens), ratio, paired=True, vectorized=True, method="percentile", n_resamples=20000, rng=generator
    ).confidence_interval
    found = interval(list(zip(sums.tolist(), tokens.tolist(), strict=True)))
    assert found == pytest.approx([theirs.low, theirs.high], rel=0.05)
    assert interval([(1.0, 2.0)]) is None
    assert over_sequences([near(kl=0.1)]).kl_interval is None
