"""tiny-writer's training, on a model of a few thousand weights, and the checkpoint that ships."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from et_pipeline.tiny_writer import CHECKPOINT, train

SETTINGS = replace(
    train.Settings(),
    steps=4,
    vocabulary=300,
    hidden=16,
    feed_forward=32,
    layers=1,
    heads=2,
    key_value_heads=1,
    head_dim=8,
    rows=2,
    row_tokens=8,
    warmup=1,
)
TEXT = train.SEPARATOR.join(["A text of some words.", "Another one, of 12 words and a number."] * 9)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(TEXT)
    return path


def test_documents_end_with_the_token_that_ends_answers(text):
    tokenizer = train.make_tokenizer(TEXT, SETTINGS)
    tokens = train.encode(tokenizer, text)
    assert (tokens == tokenizer.eos_token_id).sum() == 18
    assert tokenizer.decode(tokens[: list(tokens).index(tokenizer.eos_token_id)]) == "A text of some words."
    assert tokenizer.convert_tokens_to_ids(["1", "2"]) != [None, None]


def test_a_killed_run_ends_with_the_same_weights(text, tmp_path, monkeypatch):
    tokenizer = train.make_tokenizer(TEXT, SETTINGS)
    tokens = train.encode(tokenizer, text)
    held_out = np.tile(tokens, 2)
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    whole, _ = train.train(SETTINGS, tokenizer, tokens, held_out, tmp_path / "a")

    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return loss_of(*arguments)

    loss_of = train.loss_of
    monkeypatch.setattr(train, "loss_of", dies)
    monkeypatch.setattr(train, "perplexity", lambda *_: 1.0)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, tokenizer, tokens, held_out, tmp_path / "b")
    monkeypatch.setattr(train, "loss_of", loss_of)
    resumed, _ = train.train(SETTINGS, tokenizer, tokens, held_out, tmp_path / "b")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_ships_is_read_by_transformers(text, tmp_path):
    tokenizer = train.make_tokenizer(TEXT, SETTINGS)
    tokens = train.encode(tokenizer, text)
    model = train.make_model(SETTINGS, tokenizer)
    train.ship(model, tokenizer, np.tile(tokens, 2), SETTINGS, {"device": "cpu"}, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight.bfloat16())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == train.END
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["held_out_perplexity"] > 1


def test_the_shipped_checkpoint_is_whole():
    scores = json.loads((CHECKPOINT / "scores.json").read_text())
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 (not a mapping)
    assert sum(np.prod(shape) for shape in shapes) == scores["parameters"] >= 10_000_000
    sums = dict(reversed(line.split("  ", 1)) for line in (CHECKPOINT / "SHA256SUMS").read_text().splitlines())
    assert {path.name for path in CHECKPOINT.iterdir()} == {*sums, "SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((CHECKPOINT / name).read_bytes()).hexdigest() == digest, name
