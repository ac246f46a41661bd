"""Training by transformers' Trainer: what it learns, and what a kill leaves."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from et_pipeline.adaptation.training import Schedule, together, train
from et_pipeline.errors import UserError

SCHEDULE = Schedule(steps=40, sequences=4, learning_rate=3e-2)


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(16, 8), torch.nn.Linear(8, 16))


def collate(examples):
    ids = torch.stack(examples)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def loss(model, batch):
    """Of telling which number comes next."""
    ids = batch["input_ids"]
    return functional.cross_entropy(model(ids).flatten(0, 1), ((ids + 1) % 16).flatten())


EXAMPLES = [torch.arange(each, each + 6) % 16 for each in range(11)]


def ignore(*_):
    pass


def test_a_model_learns_and_says_how_far_it_is(tmp_path, capsys):
    model, ticks = make_model(), []
    found = train(
        model,
        EXAMPLES,
        collate,
        loss,
        tmp_path,
        SCHEDULE,
        lambda *each: ticks.append(each),
    )
    printed = re.findall(r"'loss': '?([0-9.e-]+)", capsys.readouterr().out)  # goes into the stage's log
    losses = [float(each) for each in printed]
    assert [each[:2] for each in ticks] == [(step, 40) for step in range(1, 41)]
    assert ticks[-1][2].startswith("loss ")
    assert len(losses) == 40
    assert found.steps == 40
    assert found.first_loss == pytest.approx(losses[0], rel=1e-3)
    assert found.last_loss == pytest.approx(losses[-1], rel=1e-3)
    assert found.last_loss < 0.5 * found.first_loss
    assert not model.training
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_tokens_are_counted_without_padding(tmp_path):
    def half(examples):
        batch = collate(examples)
        batch["attention_mask"][:, 3:] = 0
        return batch

    schedule = Schedule(steps=5, sequences=2)
    found = train(make_model(), EXAMPLES[:4], half, loss, tmp_path, schedule, ignore, together=2)
    assert found.tokens == 5 * 2 * 3


def test_texts_in_memory_together_change_nothing(tmp_path):
    """Gradients are gathered over micro-batches."""
    models = []
    for size in (1, 2, 3, 4):
        model = make_model()
        train(model, EXAMPLES[:8], collate, loss, tmp_path / str(size), SCHEDULE, ignore, together=size)
        models.append(model[1].weight)
    for other in models[1:]:
        assert torch.allclose(models[0], other, atol=1e-5)


def test_only_what_takes_gradients_is_trained(tmp_path):
    model = make_model()
    model[0].requires_grad_(False)
    before = [each.clone() for each in model.parameters()]
    train(model, EXAMPLES, collate, loss, tmp_path, Schedule(steps=2), ignore)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert changed == [False, True, True]


def test_a_loss_that_is_no_number_ends_it(tmp_path):
    def broken(model, batch):
        return loss(model, batch) * float("nan")

    with pytest.raises(UserError, match=r"the loss is nan at step 1: a learning rate of 0\.03 is too high"):
        train(make_model(), EXAMPLES, collate, broken, tmp_path, SCHEDULE, ignore)


def test_a_vocabulary_that_is_large_leaves_few_texts_in_memory():
    assert together(49152, 256) == 5
    assert together(262144, 2048) == 1


def killed(work, kill_at):
    """Train in a process of its own, which ends itself as the kernel would end it; then go on."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_training import *

def die(done, *_):
    if done == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
train(make_model(), EXAMPLES, collate, loss, Path({str(work)!r}), SCHEDULE, die)
"""
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.linux("where a process is killed by a signal")
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    whole = make_model()
    figures = train(whole, EXAMPLES, collate, loss, tmp_path / "whole", SCHEDULE, ignore)
    assert killed(tmp_path / "killed", 23) == -signal.SIGKILL
    newest = max((tmp_path / "killed").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    assert newest.name == "checkpoint-20"
    # Another kill, in the midst of writing the next one, leaves a part of it.
    (tmp_path / "killed" / "checkpoint-25").mkdir()
    resumed, ticks = make_model(), []
    again = train(resumed, EXAMPLES, collate, loss, tmp_path / "killed", SCHEDULE, lambda done, *_: ticks.append(done))
    assert ticks[0] == 21
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again._replace(seconds=0) == figures._replace(seconds=0)


def test_a_run_that_was_done_gives_its_weights_again(tmp_path):
    model, again = make_model(), make_model()
    schedule = Schedule(steps=3, sequences=2)
    for each in (model, again):
        train(each, EXAMPLES, collate, loss, tmp_path, schedule, ignore)
    assert torch.equal(model[1].weight, again[1].weight)
    assert not torch.equal(model[1].weight, make_model()[1].weight)
