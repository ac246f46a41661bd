"""A student that learns from its teacher's logits, kept in files."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from et_pipeline.adaptation import distillation
from et_pipeline.adaptation.distillation import Answers, ask, collate, distill, distillation_loss, grouped
from et_pipeline.adaptation.training import Schedule
from et_pipeline.errors import UserError


def ignore(*_):
    pass


@pytest.fixture
def ragged(texts):
    """Texts of several lengths."""
    return [text[: 5 + number % 9] for number, text in enumerate(texts)]


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_all_other_tokens_are_one(texts):
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0)) * 4
    tokens = logits.topk(7).indices
    chances = logits.softmax(-1).gather(-1, tokens)
    found = grouped(logits, tokens).exp()
    assert torch.allclose(found[..., :-1], chances, atol=1e-6)
    assert torch.allclose(found[..., -1], 1 - chances.sum(-1), atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_the_teacher_expects_is_kept_as_transformers_computes_it(tiny_llama, ragged, tmp_path, temperature):
    ask(tiny_llama, ragged, tmp_path, temperature, ignore)
    answers, teacher = Answers(ragged, tmp_path), read(tiny_llama)
    for number in (0, 7, 23):
        ids, tokens, logs = answers[number]
        with torch.no_grad():
            expected = (teacher(ids[None]).logits[0] / temperature).softmax(-1)
        assert torch.allclose(logs[:, :-1].exp(), expected.gather(-1, tokens), atol=2e-3)
        assert torch.allclose(logs.exp().sum(-1), torch.ones(len(ids)), atol=5e-3)
        assert torch.equal(tokens[:, 0], expected.argmax(-1))


def test_the_loss_is_the_divergence_itself_where_all_tokens_are_kept(make_checkpoint, tiny_llama, ragged, tmp_path):
    """Of a vocabulary one larger than what is kept, over tokens that are no padding, by PyTorch's own function."""
    student = read(make_checkpoint("llama", intermediate_size=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "TOP", 511)
        ask(tiny_llama, ragged, tmp_path, 1.0, ignore)
    answers = Answers(ragged, tmp_path)
    batch = collate([answers[number] for number in range(5)])
    with torch.no_grad():
        found = distillation_loss(student, batch, 1.0)
        sums, count = 0.0, 0
        for text in ragged[:5]:
            ids = torch.tensor([text])
            theirs, ours = (each(ids).logits[0].log_softmax(-1) for each in (read(tiny_llama), student))
            sums += functional.kl_div(ours, theirs, reduction="sum", log_target=True)
            count += len(text)
    assert found.item() == pytest.approx((sums / count).item(), rel=5e-3)
    assert found > 0.1


def test_less_is_told_by_fewer_tokens_but_a_perfect_student_has_no_loss(tiny_llama, ragged, tmp_path):
    ask(tiny_llama, ragged, tmp_path, 2.0, ignore)
    answers = Answers(ragged, tmp_path)
    batch = collate([answers[number] for number in range(len(ragged))])
    with torch.no_grad():
        assert distillation_loss(read(tiny_llama), batch, 2.0).item() == pytest.approx(0, abs=1e-4)


def test_asking_goes_on_where_it_was_killed(tiny_llama, ragged, tmp_path, monkeypatch):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(distillation, "together", lambda *_: 5)
    ask(tiny_llama, ragged, tmp_path / "whole", 1.0, ignore)

    def die(done):
        if done > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(tiny_llama, ragged, tmp_path / "killed", 1.0, die)
    done = []
    ask(tiny_llama, ragged, tmp_path / "killed", 1.0, done.append)
    assert done == [83, 100]
    for name in ("teacher-tokens.npy", "teacher-logs.npy"):
        assert np.array_equal(np.load(tmp_path / "whole" / name), np.load(tmp_path / "killed" / name))
    ask(tmp_path / "nothing is read", ragged, tmp_path / "killed", 1.0, ignore)


def test_a_student_comes_nearer_to_its_teacher(make_checkpoint, tiny_llama, texts, tmp_path):
    student, ticks = make_checkpoint("llama", num_hidden_layers=1, tie_word_embeddings=True), []
    schedule = Schedule(steps=30, sequences=8, learning_rate=3e-3)
    found = distill(
        student, tiny_llama, texts, tmp_path / "out", tmp_path / "work", schedule, lambda *each: ticks.append(each)
    )
    assert ticks[0] == (100, 130)
    assert ticks[-1][:2] == (130, 130)
    assert found.last_loss < 0.7 * found.first_loss
    assert found.tokens == 30 * 8 * 16
    ids = torch.tensor(texts)
    with torch.no_grad():
        theirs, before, after = (
            read(each)(ids).logits.log_softmax(-1) for each in (tiny_llama, student, tmp_path / "out")
        )
    distances = [functional.kl_div(each, theirs, reduction="sum", log_target=True) for each in (before, after)]
    assert distances[1] < 0.7 * distances[0]
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (student / "tokenizer.json").read_bytes()
    made = read(tmp_path / "out")
    assert made.lm_head.weight is made.model.embed_tokens.weight


def test_a_teacher_with_another_vocabulary_is_refused(make_checkpoint, tiny_llama, texts, tmp_path):
    other = make_checkpoint("llama", vocab_size=600)
    with pytest.raises(UserError, match="vocab_size 600 and not 512"):
        distill(tiny_llama, other, texts, tmp_path, tmp_path, Schedule(steps=1), ignore)
    same = make_checkpoint("llama")
    path = same / "tokenizer.json"
    path.write_text(path.read_text().replace("</s>", "<end>"))
    with pytest.raises(UserError, match="other tokens"):
        distill(tiny_llama, same, texts, tmp_path, tmp_path, Schedule(steps=1), ignore)
