"""The generator of tiny-assistant's text: always the same, and nothing held out reaches training."""

import json
import random

import pytest
import yaml

from et_pipeline.tiny_assistant import EVAL, text

SAMPLES = 40_000


@pytest.fixture(scope="module")
def training():
    samples = text.training_samples("test")
    return [next(samples) for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def evaluation():
    return text.evaluation_samples()


def user_turns(sample):
    return [message["content"] for message in sample.messages if message["role"] == "user"]


def pieces(combinations):
    return {(task, piece) for task, a, b in combinations for piece in (a, b)}


def test_same_seed_same_text():
    first, again, other = (text.training_samples(seed) for seed in ("a", "a", "b"))
    assert [next(first) for _ in range(200)] == [next(again) for _ in range(200)]
    assert [next(first) for _ in range(200)] != [next(other) for _ in range(200)]


def test_evaluation_file_is_what_the_generator_gives():
    assert EVAL.read_text(encoding="utf-8") == text.evaluation_jsonl()


def test_evaluation_items_are_well_formed():
    items = [json.loads(line) for line in EVAL.read_text(encoding="utf-8").splitlines()]
    assert {task: sum(item["task"] == task for item in items) for task in text.TASKS} == dict.fromkeys(text.TASKS, 100)
    for item in items:
        assert [m["role"] for m in item["messages"]] == (["user", "assistant"] * 4)[: len(item["messages"])]
        assert len(item["messages"]) % 2 == 1
        assert item["answer"] == item["answer"].strip() != ""


def test_no_held_out_combination_in_training(training):
    assert not any(text.is_held_out(c) for sample in training for c in sample.combinations)


def test_each_evaluation_item_holds_a_held_out_combination_of_its_task(evaluation):
    assert all(text.scored_turn_is_held_out(sample) for sample in evaluation)


def test_no_held_out_prompt_in_training(training, evaluation):
    conversations = {json.dumps([m for m in s.messages if m["role"] != "system"]) for s in training}
    assert not any(json.dumps(sample.messages) in conversations for sample in evaluation)
    seen = {turn for sample in training for turn in user_turns(sample)}
    single = [sample for sample in evaluation if sample.task != "multi_turn"]
    assert not any(user_turns(sample)[-1] in seen for sample in single)


@pytest.mark.parametrize("task", text.TASKS)
def test_a_prompt_always_has_the_same_combinations_and_answer(task):
    # This is why no held-out prompt can ever come out of the training generator, not only not in these samples:
    # the prompt decides the combinations, and training drops each sample that has a held-out one.
    rng = random.Random(5)
    known = {}
    for _ in range(20_000):
        sample = text.make_sample(task, rng)
        value = (sample.answer, sample.combinations)
        assert known.setdefault(json.dumps(sample.messages), value) == value


def test_each_piece_occurs_in_training(training, evaluation):
    learned = set().union(*(pieces(sample.combinations) for sample in training))
    needed = set().union(*(pieces(sample.combinations) for sample in evaluation))
    assert needed - learned == set()


def test_templates_come_from_the_task_file():
    config = yaml.safe_load(text.task_config_file().read_text(encoding="utf-8"))
    assert set(config["use_cases"]) == {"chat", "smart_reply", "translate", "summarize", "symptom_check"}
    assert text.prompt_templates() == {key: use["template"] for key, use in config["use_cases"].items()}
    assert config["use_cases"]["translate"]["choices"]["language"] == list(text.LANGUAGES)
    assert config["use_cases"]["symptom_check"]["disclaimer"]


def test_prompts_are_made_with_the_templates(monkeypatch):
    templates = {key: f"<{key}> {template}" for key, template in text.prompt_templates().items()}
    monkeypatch.setattr(text, "prompt_templates", lambda: templates)
    for task in set(text.TASKS) - {"multi_turn"}:
        key = "chat" if task == "arithmetic" else task
        assert text.make_sample(task, random.Random(1)).messages[-1]["content"].startswith(f"<{key}> ")


def test_symptom_answers_end_with_the_doctor(evaluation):
    for sample in evaluation:
        if sample.task == "symptom_check":
            assert sample.answer.splitlines()[-1].startswith("See a doctor")


def test_smart_replies_are_three_distinct_lines(evaluation):
    for sample in evaluation:
        if sample.task == "smart_reply":
            assert len(set(sample.answer.split("\n"))) == 3


@pytest.mark.parametrize(
    ("language", "count", "key", "expected"),
    [
        ("German", "one", "a coffee/coffees", "einen Kaffee"),
        ("German", "two", "an apple/apples", "zwei Äpfel"),
        ("French", "one", "a beer/beers", "une bière"),
        ("French", "three", "a newspaper/newspapers", "trois journaux"),
        ("Spanish", "one", "a room/rooms", "una habitación"),
        ("Spanish", "four", "a room/rooms", "cuatro habitaciones"),
    ],
)
def test_objects(language, count, key, expected):
    assert text.counted_object(text.OBJECTS[key], count, language) == expected


@pytest.mark.parametrize(
    ("language", "key", "form", "expected"),
    [
        ("French", "hotel", "the", "l'hôtel"),
        ("French", "museum", "to", "au musée"),
        ("French", "church", "open", "ouverte"),
        ("Spanish", "market", "to", "al mercado"),
        ("German", "pharmacy", "to", "zur Apotheke"),
        ("German", "park", "the_accusative", "den Park"),
    ],
)
def test_places(language, key, form, expected):
    assert text.place_forms(text.SIGHTS[key], language)[form] == expected
