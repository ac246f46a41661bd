"""On what a model that answers is compared with its original: conversations, a long text, held-out items, a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.evaluation.perplexity import Window, text_ids, windows
from et_pipeline.evaluation.subject import Subject
from et_pipeline.evaluation.tasks import Item, read_items
from et_pipeline.quantization.torchao_config import DYNAMIC
from et_pipeline.settings import Evidence as Asked
from et_pipeline.settings import ExportForm, Task
from et_pipeline.tiny_assistant import EVAL

if TYPE_CHECKING:
    from et_pipeline.checkpoints.facts import Facts

LONG_END = 16  # tokens
LOGIT_BYTES = 1_000_000_000  # of one model's logits; three are in memory at a time
FEWEST_SEQUENCES = 4
FARTHER = 256  # tokens behind the largest window


class Conversation(NamedTuple):
    """A whole conversation as token ids."""

    ids: list[int]
    prompt: int  # how many of them are not the last answer's


@dataclass(frozen=True)
class Evidence:
    """All of it, as token ids.

    Attributes:
        texts: conversations, whose logits are compared.
        long: a text that takes several calls and fills each sliding window; empty where there is none.
        far: a text that goes beyond each sliding window of the original.
        items: held-out items, and their `prompts`.
        budget: most tokens of an answer.
        text: a text for perplexity, and the windows over it; empty where none is given.
        steps: how many the comparison takes.
    """

    texts: list[Conversation]
    long: list[int]
    far: list[int]
    items: list[Item] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    budget: int = 64
    text: list[int] = field(default_factory=list)
    spans: list[Window] = field(default_factory=list)
    steps: int = 0

    @property
    def sequences(self) -> list[list[int]]:
        """The conversations' tokens."""
        return [text.ids for text in self.texts]


def gather(subject: Subject, asked: Asked, task: Task, held_out: Path | None, path: Path | None) -> Evidence:
    """Any real text serves the comparison of logits; the built-in items are there for every model.

    Args:
        subject: what is verified.
        asked: how much.
        task: whose answers are scored.
        held_out: its items, if it has some.
        path: of the text for perplexity, unless it is built in.
    """
    facts, tokenizer, form = subject.facts, subject.tokenizer, subject.form
    length = subject.made_as.sequence_length(form)
    texts = conversations(read_items(EVAL), asked.sequences, facts, tokenizer, length)
    sequences = [text.ids for text in texts]
    long = long_text(sequences, facts.windows, form) if subject.made_as.long else []
    items = read_items(held_out, asked.items_per_task) if held_out is not None and subject.executable else []
    prompts = [tokenizer.encode(facts.chat.render(item.messages), add_special_tokens=False).ids for item in items]
    text: list[int] = []
    spans: list[Window] = []
    if asked.text is not None:
        text = text_ids(asked.text, path, asked.text_tokens, facts, tokenizer)
        spans = windows(len(text), asked.window, asked.stride)
    steps = (6 if subject.quantization.scheme in DYNAMIC else 5) * len(sequences) + 2 * len(items) + 2 * bool(long)
    return Evidence(
        texts=texts,
        long=long,
        far=far_text(sequences, facts.windows, form),
        items=items,
        prompts=prompts,
        budget=max((use.max_new_tokens for use in task.use_cases.values()), default=64),
        text=text,
        spans=spans,
        steps=steps + (3 if subject.executable else 2) * len(spans),
    )


def conversations(items: Sequence[Item], count: int, facts: Facts, tokenizer: Any, limit: int) -> list[Conversation]:
    """Whole conversations as token ids, spread over the items, no longer than one forward call takes."""
    count = min(count, max(FEWEST_SEQUENCES, LOGIT_BYTES // (4 * facts.vocab_size * limit)))
    step = max(1, len(items) // count)
    texts = []
    for item in items[::step][:count]:
        prompt = facts.chat.render(item.messages)
        ids = tokenizer.encode(prompt + item.answer, add_special_tokens=False).ids[:limit]
        texts.append(Conversation(ids, min(len(tokenizer.encode(prompt, add_special_tokens=False).ids), len(ids))))
    return texts


def long_text(sequences: Sequence[list[int]], windows: Sequence[int | None], form: ExportForm) -> list[int]:
    """Token ids that take several calls and fill each sliding window; none where one call takes the whole context."""
    length = min(form.max_context, max(_filled(windows, form), form.prefill_chunk) + 2 * form.prefill_chunk)
    return _repeated(sequences, length) if length > form.prefill_chunk + LONG_END else []


def far_text(sequences: Sequence[list[int]], windows: Sequence[int | None], form: ExportForm) -> list[int]:
    """Token ids that go beyond each sliding window of the original, whatever the program's calls take."""
    return _repeated(sequences, min(form.max_context, _filled(windows, form) + FARTHER))


def _filled(windows: Sequence[int | None], form: ExportForm) -> int:
    """The largest sliding window that the context can fill."""
    return max((window for window in windows if window is not None and window < form.max_context), default=0)


def _repeated(sequences: Sequence[list[int]], length: int) -> list[int]:
    ids = [token for sequence in sequences for token in sequence]
    return (ids * math.ceil(length / len(ids)))[:length]
