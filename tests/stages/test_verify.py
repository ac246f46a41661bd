"""The parts of `verify` that its end-to-end runs do not show one by one."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from et_pipeline import forms
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.evaluation.agreement import compare, eager_logits, interval
from et_pipeline.evaluation.answers import nudged
from et_pipeline.evaluation.evidence import LONG_END, far_text, long_text
from et_pipeline.evaluation.on_text import score
from et_pipeline.evaluation.perplexity import windows
from et_pipeline.evaluation.verified import Verified
from et_pipeline.job.composed import composed
from et_pipeline.manifest import WaysOfFeeding
from et_pipeline.models.decoder import Decoder
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import Program
from et_pipeline.settings import ExportForm


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
    text = long_text([[1, 2, 3], [4, 5]], windows, ExportForm(max_context=context, prefill_chunk=chunk))
    assert len(text) == length
    assert text[:7] == [1, 2, 3, 4, 5, 1, 2][:length]


@pytest.mark.parametrize(
    ("windows", "context", "length"),
    [((None,), 2048, 256), ((None,), 64, 64), ((512, None), 2048, 768), ((4096,), 2048, 256), ((1024,), 1100, 1100)],
)
def test_a_far_text_goes_beyond_each_window(windows, context, length):
    text = far_text([[1, 2, 3], [4, 5]], windows, ExportForm(max_context=context, prefill_chunk=8))
    assert len(text) == length
    assert text[:7] == [1, 2, 3, 4, 5, 1, 2]


def test_nudged_changes_the_last_bit_and_only_within_the_context():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), torch.randn(1, 64)
    with torch.no_grad():
        plain = model(x)
        with nudged(model):
            changed = model(x)
        assert torch.equal(model(x), plain)
    assert not torch.equal(changed, plain)
    assert torch.allclose(changed, plain, atol=1e-5)


def test_reference_rounds_keys_and_values_as_the_programs_cache_does(make_checkpoint):
    model = load_model(make_checkpoint("llama", num_hidden_layers=1))
    sequences = [list(range(2, 42)), list(range(50, 61))]  # one is padded
    exact, half, int8 = (
        torch.cat(eager_logits(model, 64, sequences, kv_cache=kind)) for kind in ("fp32", "fp16", "int8")
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


def test_a_text_is_scored_as_the_documentation_does_it_on_all_three_models(tiny_program):
    """Window after window in float64, with labels of -100, as in transformers' "Perplexity of fixed-length models"."""
    size, stride = 24, 10
    q, text = (
        tiny_program.quantization,
        torch.randint(2, 512, (61,), generator=torch.Generator().manual_seed(1)).tolist(),
    )
    original = load_model(tiny_program.checkpoint)
    quantized = load_model(tiny_program.checkpoint, lambda name, module: quantize_module(name, module, q))

    def logits_of(model):
        return lambda sequences: eager_logits(model, 64, sequences)

    program = Program(tiny_program.pte, threads=1)
    spans = windows(len(text), size, stride)
    steps = []
    found = score(text, spans, logits_of(original), logits_of(quantized), program, 512, steps.append)
    rows, previous = {"original": [], "quantized": []}, 0
    targets = []
    for begin in range(0, len(text), stride):
        end = min(begin + size, len(text))
        ids = torch.tensor([text[begin:end]])
        labels = ids.clone()
        labels[:, : -(end - previous)] = -100
        kept = labels[0, 1:] != -100
        targets.append(labels[0, 1:][kept])
        with torch.no_grad():
            for name, model in (("original", original), ("quantized", quantized)):
                rows[name].append(model(ids).logits[0, :-1][kept].double().log_softmax(-1))
        previous = end
        if end == len(text):
            break
    targets, a, b = torch.cat(targets), torch.cat(rows["original"]), torch.cat(rows["quantized"])
    assert (found.tokens, len(targets), sum(steps)) == (60, 60, len(spans))
    assert found.original == pytest.approx(nn.functional.nll_loss(a, targets).exp().item(), rel=1e-5)
    assert found.quantized.perplexity == pytest.approx(nn.functional.nll_loss(b, targets).exp().item(), rel=1e-5)
    assert found.quantized.kl == pytest.approx((a.exp() * (a - b)).sum(-1).mean().item(), rel=1e-4)
    assert found.quantized.top1 == (a.argmax(-1) == b.argmax(-1)).double().mean().item()
    more = (a - b).gather(1, targets[:, None]).split([span.end - span.start - span.first for span in spans])
    ends = interval([(each.sum().item(), len(each)) for each in more])
    assert found.quantized.ratio_interval == pytest.approx([math.exp(end) for end in ends], rel=1e-5)
    # The program is the quantized model, up to activations on the edge between two steps.
    assert found.deployed.perplexity == pytest.approx(found.quantized.perplexity, rel=0.02)
    assert found.deployed.kl == pytest.approx(found.quantized.kl, rel=0.1)
    without = score(text, spans, logits_of(original), logits_of(quantized), None, 512, steps.append)
    assert without == found.model_copy(update={"deployed": None})


@pytest.mark.parametrize(
    ("seconds", "first_takes", "rounds"),
    [(30, 500, 3), (15, 500, 2), (0, 1, 0), (1000, 1, 5)],
    ids=["the first round takes none of it", "two fit", "no more than the first is asked for", "all there is"],
)
def test_more_rounds_are_taken_for_their_own_seconds(seconds, first_takes, rounds, tmp_path, monkeypatch):
    """Each takes ten seconds here, and leaves the verdict open."""
    from et_pipeline.evaluation.evidence import Evidence
    from et_pipeline.evaluation.own_text import Conversation
    from et_pipeline.stages import verify

    near = {"positions": 5, "cosine": 1.0, "min_cosine": 1.0, "max_abs_diff": 0.0, "top1": 1.0}
    way = [{**near, "kl": 0.0}, {**near, "kl": 0.19}]
    answers = [Conversation([1, 2, 3], 1)] * 6
    clock, settings = [0.0], composed(["task=chat", f"verify.seconds={seconds}"])

    def compared(steps, subject, evidence, task, advance):
        clock[0] += first_takes if evidence.first else 10
        ways = dict.fromkeys(WaysOfFeeding.model_fields if evidence.first else ["token_by_token"], way)
        return Verified(
            witness={"name": "transformers", "version": "5"}, eager=way, quantized=ways, original=ways, losses=[]
        )

    monkeypatch.setattr(verify, "_compared", compared)
    monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(verify.answers, "gather", lambda *_: Evidence(answers[:1], answers[1:], [], []))
    monkeypatch.setattr(verify.Facts, "read", lambda folder: None)
    found = verify.run(
        dict.fromkeys(("checkpoint", "quantize", "lower", "acquire"), tmp_path),
        tmp_path,
        lambda *_: None,
        kind=forms.choose(settings.model.task, settings.backend),
        quantization=settings.recipe.quantization,
        form=settings.model.form,
        task=settings.task,
        verify=settings.verify.evidence(slow=False),
        backend=settings.backend,
        gate=settings.recipe.gate,
    )
    assert {name: len(parts) for name, parts in found.quantized.items()} == {
        "one_piece": 2,
        "chunked": 2,
        "token_by_token": 2 + 2 * rounds,
    }
