"""The table of a sweep's jobs, and the figures that a search weighs."""

import io

import pytest
from made_bundle import PTE, make_embedding_manifest, make_gate, make_manifest
from rich.console import Console

from et_pipeline.errors import UserError
from et_pipeline.manifest import Agreement, Comparison, File, Quality, WaysOfFeeding
from et_pipeline.pipeline import Made, Result
from et_pipeline.report import metrics
from et_pipeline.report.jobs import Outcome, table


def files(size):
    return {PTE: File(size=size, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)}


def manifest(passed=True):
    found = Agreement(positions=9, cosine=0.99, min_cosine=0.9, max_abs_diff=0.1, kl=0.0312, top1=0.9)
    ways = WaysOfFeeding(one_piece=found, chunked=found, token_by_token=found)
    quality = Quality(agreement=Comparison(quantized=ways, original=ways), gate=make_gate(passed))
    return make_manifest(files(1_500_000), quality=quality)


def done(number, *changes, passed=True, reused=()):
    made = Made(None, None, entries={"lower": None, "verify": None}, reused=list(reused))
    result = Result(programs=[made], manifest=manifest(passed))
    return Outcome(number, ("recipe=8da4w", *changes), found=(result,), seconds=12.4)


def lines(*outcomes):
    text = io.StringIO()
    Console(file=text, width=160).print(table(outcomes))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_each_job_is_a_row_with_what_it_alone_was_asked_for():
    rows = lines(
        done(0, "seed=1"),
        done(1, "seed=2", reused=("lower", "verify")),
        done(2, "seed=3", passed=False),
        Outcome(3, ("recipe=8da4w", "seed=4"), mistake="it does not fit"),
        Outcome(4, ("recipe=8da4w", "seed=5"), crash="RuntimeError: broken"),
    )
    decode = metrics.shown("decode", manifest())
    assert rows[2] == f"#0 seed=1 1.5 MB 0.0312 {decode} 12 s made"
    assert rows[3] == f"#1 seed=2 1.5 MB 0.0312 {decode} 12 s reused"
    assert rows[4].startswith(f"#2 seed=3 1.5 MB 0.0312 {decode} 12 s made, but its gate failed: ")
    assert rows[5] == "#3 seed=4 0 s failed: it does not fit"
    assert rows[6] == "#4 seed=5 0 s failed: RuntimeError: broken"


def test_metrics_are_the_manifests_figures():
    made = manifest()
    assert metrics.of(made, ["size", "kl", "top1"]) == (1_500_000, 0.0312, 0.9)
    assert metrics.of(made, ["decode"]) == (made.speed[0].decode_tok_s.p50,)


@pytest.mark.parametrize("name", ["kl", "accuracy", "decode"])
def test_a_model_that_embeds_has_a_size_alone(name):
    made = make_embedding_manifest(files(7))
    assert metrics.of(made, ["size"]) == (7.0,)
    with pytest.raises(UserError, match=rf"sweep\.metrics has {name}, which .* has no figure of"):
        metrics.of(made, ["size", name])
