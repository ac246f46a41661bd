import json

import pytest
import torch

from et_pipeline.checkpoints.reader import load_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.tasks import Item, accuracy, eager_answers, evaluation_file, read_items
from et_pipeline.settings import Task

USE_CASES = {"chat": {"title": "Chat", "template": "{text}", "max_new_tokens": 8}}


def item(task="chat", answer="yes"):
    return Item(task=task, messages=({"role": "user", "content": "really?"},), answer=answer)


def write(path, *lines):
    path.write_text("\n".join(lines))
    return path


def test_accuracy_is_exact_match_of_stripped_texts_per_task():
    items = [item(), item(), item("sum", "4")]
    assert accuracy(items, [" yes\n", "Yes", "4"]) == {"chat": 50.0, "sum": 100.0}


def test_read_items_takes_the_first_of_each_task(tmp_path):
    lines = [json.dumps(item(task, str(n)).model_dump()) for n in range(3) for task in ("a", "b")]
    items = read_items(write(tmp_path / "items.jsonl", *lines), per_task=2)
    assert [(each.task, each.answer) for each in items] == [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1")]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["{"], r"line 1 is not an item"),
        ([item().model_dump_json(), '{"task": "chat"}'], r"line 2 is not an item"),
        (["", "x"], r"line 1 is not an item"),
        ([], r"holds no item"),
    ],
)
def test_read_items_names_the_line(tmp_path, lines, sentence):
    with pytest.raises(UserError, match=sentence):
        read_items(write(tmp_path / "items.jsonl", *lines))


def test_evaluation_file_may_be_none_built_in_or_a_file(tmp_path):
    path = write(tmp_path / "items.jsonl", item().model_dump_json())
    assert evaluation_file(Task(name="t", use_cases=USE_CASES)) is None
    assert evaluation_file(Task(name="t", evaluation=str(path), use_cases=USE_CASES)) == path
    assert evaluation_file(Task(name="t", evaluation="builtin:tiny_assistant", use_cases=USE_CASES)).is_file()


def test_eager_answers_equal_greedy_generation_by_transformers(tiny_llama):
    model = load_model(tiny_llama)
    prompts = [[5, 6, 7], [9, 8, 7], [3, 4, 5, 6, 7], [11]]
    ticks = []
    answers = eager_answers(model, prompts, [1], 6, ticks.append, batch=2)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = torch.tensor([prompt])
        whole = model.generate(tokens, max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=1)
        expected = whole[0, len(prompt) :].tolist()
        assert answer == (expected[: expected.index(1)] if 1 in expected else expected)
    assert sum(ticks) == len(prompts)
