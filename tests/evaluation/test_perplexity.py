"""Sliding perplexity against the loop of transformers' documentation, written down once more."""

import math

import pytest
import torch
from torch.nn import functional

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.evaluation import perplexity
from et_pipeline.evaluation.agreement import compare
from et_pipeline.evaluation.perplexity import BLOCK_BYTES, agreement, loss, text_ids, windows


@pytest.mark.parametrize(("tokens", "size", "stride"), [(2, 8, 4), (8, 8, 4), (9, 8, 7), (40, 8, 1), (41, 16, 5)])
def test_every_token_is_scored_once_with_enough_before_it(tokens, size, stride):
    scored = []
    for start, end, first in windows(tokens, size, stride):
        assert end - start <= size
        assert first >= (1 if start == 0 else size - stride)
        scored += range(start + first, end)
    assert scored == list(range(1, tokens))


def documented(model, ids, size, stride):
    """https://huggingface.co/docs/transformers/perplexity, in float64 and per token."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + size, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        logits = model(ids[:, begin:end]).double()
        targets = labels[0, 1:]
        total += functional.cross_entropy(logits[0, :-1], targets, ignore_index=-100, reduction="sum").item()
        count += int((targets != -100).sum())
        previous = end
        if end == ids.shape[1]:
            break
    return math.exp(total / count)


@pytest.mark.parametrize(("size", "stride"), [(16, 8), (16, 15), (16, 3), (64, 10)])
def test_it_is_the_perplexity_of_the_documentation(size, stride):
    torch.manual_seed(0)
    table = torch.randn(50, 50)

    def model(ids):  # what comes next depends on all that was seen
        return (table[ids].cumsum(1) / 2).sin() * 3

    ids = torch.randint(50, (1, 61))
    losses = []
    for start, end, first in windows(61, size, stride):
        logits = model(ids[:, start:end])[0]
        losses.append(loss(logits[first - 1 : -1], ids[0, start + first : end].tolist()))
    assert perplexity.perplexity(losses, 60) == pytest.approx(documented(model, ids, size, stride), rel=1e-9)


def test_blocks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    found, reference, targets = torch.randn(11, 30), torch.randn(11, 30), list(range(11))
    whole = loss(found, targets), compare(found, reference)
    assert BLOCK_BYTES >= 8 * 30 * 11
    monkeypatch.setattr(perplexity, "BLOCK_BYTES", 8 * 30 * 4)
    assert loss(found, targets) == pytest.approx(whole[0])
    assert agreement(found, reference).model_dump() == pytest.approx(whole[1].model_dump())


@pytest.fixture(scope="module")
def model():
    return read_facts(Folder(tiny_assistant.CHECKPOINT)), Folder(tiny_assistant.CHECKPOINT).tokenizer


def test_the_beginning_of_a_text_is_the_same_however_much_follows(model, tmp_path):
    facts, tokenizer = model
    text = "".join(f"Note {number}: the train leaves at {number % 24}:15.\n" for number in range(2000))
    path = tmp_path / "long.txt"
    path.write_text(text)
    whole = tokenizer.encode(text).ids
    for count in (2, 50, 1000, len(whole)):
        assert text_ids(str(path), path, count, facts, tokenizer) == whole[:count]
    with pytest.raises(UserError, match=rf"long.txt has {len(whole)} tokens, and verify.text_tokens={len(whole) + 1}"):
        text_ids(str(path), path, len(whole) + 1, facts, tokenizer)


def test_texts_of_a_folder_are_joined_by_an_empty_line(model, tmp_path):
    facts, tokenizer = model
    (tmp_path / "a.txt").write_text("My name is Anna.")
    (tmp_path / "b.txt").write_text("Where is the station?")
    expected = tokenizer.encode("My name is Anna.\n\nWhere is the station?").ids
    assert text_ids(str(tmp_path), tmp_path, len(expected), facts, tokenizer) == expected


def test_the_built_in_text_is_of_held_out_conversations_of_all_kinds(model):
    facts, tokenizer = model
    ids = text_ids("builtin:tiny_assistant", None, 1000, facts, tokenizer)
    assert len(ids) == 1000
    assert ids[:500] == text_ids("builtin:tiny_assistant", None, 500, facts, tokenizer)
    text = tokenizer.decode(ids)
    assert "Translate" in text
    assert "Summarize" in text
