"""Held-out items: conversations whose last answer is known, scored by exact match."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from et_pipeline import host, tiny_assistant
from et_pipeline.errors import UserError
from et_pipeline.settings import Task, closest, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BUILTIN = {"tiny_assistant": tiny_assistant.EVAL}


class Item(BaseModel):
    """A conversation that ends with a user's turn, and the answer that counts as right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    messages: tuple[dict[str, str], ...]
    answer: str


def evaluation_file(task: Task) -> Path | None:
    """Where the task's held-out items are.

    Raises:
        UserError: `task.evaluation` names nothing that exists.
    """
    source = task.evaluation
    if source is None:
        return None
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UserError(f"task.evaluation={source} does not exist{closest(name, BUILTIN)}")
        return BUILTIN[name]
    path = host.expanded(Path(source), "task.evaluation=")
    if not path.is_file():
        raise UserError(
            f"task.evaluation={source} is not a file; give a JSONL file of {{task, messages, answer}} items"
        )
    return path.resolve()


def read_items(path: Path, per_task: int | None = None) -> list[Item]:
    """Read held-out items, at most `per_task` of each task, in file order.

    Raises:
        UserError: a line is not an item.
    """
    items: list[Item] = []
    count: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = Item.model_validate(json.loads(line))
        except (json.JSONDecodeError, ValidationError) as error:
            raise UserError(
                f"{path} line {number} is not an item {{task, messages, answer}}: {first_line(error)}"
            ) from error
        count[item.task] = count.get(item.task, 0) + 1
        if per_task is None or count[item.task] <= per_task:
            items.append(item)
    if not items and per_task != 0:
        raise UserError(f"{path} holds no item")
    return items


def accuracy(items: Sequence[Item], answers: Sequence[str]) -> dict[str, float]:
    """Exact match of stripped texts in points (0-100), per task."""
    right: dict[str, list[bool]] = {}
    for item, answer in zip(items, answers, strict=True):
        right.setdefault(item.task, []).append(answer.strip() == item.answer.strip())
    return {task: 100.0 * sum(hits) / len(hits) for task, hits in right.items()}


def eager_answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
    max_new_tokens: int,
    tick: Callable[[int], Any],
    batch: int = 64,
) -> list[list[int]]:
    """Greedy answers of an eager model with its own attention and cache, without the token that ends them.

    Prompts of one length go together, so no padding is needed and a batch gives what a single prompt gives.
    """
    import torch

    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    answers: list[list[int]] = [[] for _ in prompts]
    for numbers in by_length.values():
        for at in range(0, len(numbers), batch):
            rows = numbers[at : at + batch]
            tokens = torch.tensor([list(prompts[row]) for row in rows])
            for row, ids in zip(rows, _greedy(model, tokens, eos_ids, max_new_tokens), strict=True):
                answers[row] = ids
            tick(len(rows))
    return answers


def _greedy(
    model: PreTrainedModel, tokens: torch.Tensor, eos_ids: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    import torch

    stop = torch.tensor(list(eos_ids))
    done = torch.zeros(tokens.shape[0], dtype=torch.bool)
    answers: list[list[int]] = [[] for _ in range(tokens.shape[0])]
    past = None
    with torch.no_grad():
        for _ in range(max_new_tokens):
            output = model(input_ids=tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = output.past_key_values
            tokens = output.logits[:, -1].argmax(-1, keepdim=True)
            done |= torch.isin(tokens[:, 0], stop)
            if bool(done.all()):
                break
            for row, token in enumerate(tokens[:, 0].tolist()):
                if not done[row]:
                    answers[row].append(token)
    return answers
