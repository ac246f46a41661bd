import pytest

from et_pipeline.evaluation.gate import judge
from et_pipeline.settings import Gate

GATE = Gate(
    min_cosine_quantized=0.999, min_top1_quantized=0.99, min_top1_original=0.9, max_kl_original=0.1, max_task_drop=1.0
)
WAYS = ("one_piece", "chunked", "token_by_token")
WITNESS = {"name": "transformers", "difference": 1e-6, "allowed": 1e-4}


def figures(cosine=1.0, top1=1.0, kl=0.0, deployed=100.0, rounding=None, long=1.0, difference=1e-6):
    agreement = {way: {"cosine": cosine, "top1": top1, "kl": kl} for way in WAYS}
    tasks = {"chat": {"original": 100.0, "deployed": deployed, "items": 100}}
    rounding = rounding and {"cosine": rounding[0], "top1": rounding[1]}
    long = long and {"cosine": long}
    said = {"rounding": rounding, "long": long, "tasks": tasks, "witness": WITNESS | {"difference": difference}}
    return {"quantized": agreement, "original": agreement, **said}


def test_judge_passes_a_good_bundle():
    verdict = judge(figures(), GATE)
    assert verdict.passed
    assert len(verdict.checks) == 15
    assert len(judge(figures(long=None), GATE).checks) == 14
    assert len(judge(figures(difference=None), GATE).checks) == 14  # nothing but our own reader reads it


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"cosine": 0.998}, {"cosine to quantized eager"}),
        ({"top1": 0.98}, {"top-1 with quantized eager"}),
        ({"top1": 0.5}, {"top-1 with quantized eager", "top-1 with original"}),
        ({"long": 0.998}, {"cosine to quantized eager"}),
        ({"kl": 0.2}, {"KL to original"}),
        ({"difference": 2e-4}, {"difference of our reading of the original from transformers"}),
        ({"deployed": 98.9}, {"accuracy drop in points"}),
    ],
)
def test_judge_names_what_fails(change, failed):
    verdict = judge(figures(**change), GATE)
    assert not verdict.passed
    assert {check.name.split(",")[0] for check in verdict.checks if not check.passed} == failed


def test_a_gain_in_accuracy_is_no_fault():
    assert judge(figures(deployed=101.0), GATE).passed


def test_twice_the_distance_that_rounding_alone_makes_is_allowed():
    fine, rough = (0.9999, 1.0), (0.998, 0.9)
    assert judge(
        figures(cosine=0.9961, top1=0.81, long=0.9961, rounding=rough),
        GATE.model_copy(update={"min_top1_original": 0.8}),
    ).passed
    assert not judge(figures(cosine=0.9959, rounding=rough), GATE).passed
    assert not judge(figures(top1=0.79, rounding=rough), GATE).passed
    assert not judge(figures(cosine=0.9989, rounding=fine), GATE).passed, (
        "the recipe's threshold stays where it is lower"
    )
