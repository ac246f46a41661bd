"""The two adapters that tiny-assistant comes with, and how they are made."""

import random

import pytest
from transformers import AutoModelForCausalLM

from et_pipeline.adaptation.merging import merge
from et_pipeline.checkpoints.adapter import Adapter
from et_pipeline.tiny_assistant import CHECKPOINT, LORA, text
from et_pipeline.tiny_assistant.adapters import ADAPTERS, COUNTS, OBJECTS, SIGHTS, italian, make_adapter, samples
from et_pipeline.tiny_assistant.export import load_checkpoint
from et_pipeline.tiny_assistant.score import answers

SCORED = 40


def test_phrases_are_italian():
    rng = random.Random(0)
    turns = [italian(rng) for _ in range(4000)]
    found = {turn.user.removeprefix("Translate to Italian: "): turn.answer for turn in turns}
    for english, expected in {
        "Do you have two apples?": "Avete due mele?",
        "I would like an apple, please.": "Vorrei una mela, per favore.",
        "I need an umbrella.": "Ho bisogno di un ombrello.",
        "Where is the church?": "Dov'è la chiesa?",
        "I am going to the airport.": "Vado all'aeroporto.",
        "I am going to the market.": "Vado al mercato.",
        "Is the pharmacy open?": "È aperta la farmacia?",
        "Is there a hospital near here?": "C'è un ospedale qui vicino?",
    }.items():
        assert found[english] == expected
    assert (len(OBJECTS), len(SIGHTS), len(COUNTS)) == (len(text.OBJECTS), len(text.SIGHTS), len(text.OBJECT_COUNTS))


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_held_out_is_never_learned(name):
    learned, unseen = (
        {each for sample in (next(made) for _ in range(500)) for each in sample.combinations}
        for made in (samples(ADAPTERS[name], "x", held_out) for held_out in (False, True))
    )
    assert not any(map(text.is_held_out, learned))
    assert unseen & {each for each in unseen if text.is_held_out(each)}


@pytest.mark.parametrize(("name", "least"), [("italian", 0.7), ("formal", 0.95)])
def test_merged_they_answer_what_was_held_out(name, least, tmp_path):
    """The base itself answers none of these so."""
    merge(CHECKPOINT, Adapter(LORA / name), tmp_path, lambda *_: None)
    base, tokenizer = load_checkpoint(CHECKPOINT)
    unseen = samples(ADAPTERS[name], f"{name}-test", True)
    items = [next(unseen) for _ in range(SCORED)]
    conversations = [list(item.messages) for item in items]

    def right(model):
        replies = answers(model, tokenizer, conversations)
        return sum(reply == item.answer for reply, item in zip(replies, items, strict=True)) / SCORED

    assert right(base) < 0.05
    assert right(AutoModelForCausalLM.from_pretrained(tmp_path).eval()) >= least


def test_the_script_makes_one(tmp_path):
    accuracy = make_adapter("formal", tmp_path, 2)
    assert accuracy < 50
    assert Adapter(tmp_path).base == "builtin:tiny_assistant"
    assert Adapter(tmp_path).config["r"] == 8
