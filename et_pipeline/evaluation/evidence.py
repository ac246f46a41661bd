"""On what a model that answers is compared with its original: its own answers, a long text, held-out items, a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.own_text import Conversation
from et_pipeline.evaluation.perplexity import Window, text_ids, windows
from et_pipeline.evaluation.subject import Subject
from et_pipeline.evaluation.tasks import Item, read_items
from et_pipeline.quantization.torchao_config import DYNAMIC
from et_pipeline.settings import Evidence as Asked
from et_pipeline.settings import ExportForm, Task

LONG_END = 16  # tokens
LOGIT_BYTES = 1_000_000_000  # of one model's logits; three are in memory at a time
FEWEST_SEQUENCES = 4
FARTHER = 256  # tokens behind the largest window


@dataclass(frozen=True)
class Evidence:
    """All of it, as token ids.

    Attributes:
        texts: the model's own answers, whose logits are compared.
        rest: more of them, for where these leave a verdict open.
        long: a text that takes several calls and fills each sliding window; empty where there is none.
        far: a text that goes beyond each sliding window of the original.
        items: held-out items, and their `prompts`.
        budget: most tokens of an answer.
        text: a text for perplexity, and the windows over it; empty where none is given.
        steps: how many the comparison takes.
        first: whether it is the first round, which finds out what does not get surer with more sequences.
    """

    texts: list[Conversation]
    rest: list[Conversation]
    long: list[int]
    far: list[int]
    items: list[Item] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    budget: int = 64
    text: list[int] = field(default_factory=list)
    spans: list[Window] = field(default_factory=list)
    steps: int = 0
    first: bool = True

    @property
    def sequences(self) -> list[list[int]]:
        """The conversations' tokens."""
        return [text.ids for text in self.texts]

    def more(self) -> Evidence:
        """As many answers of the rest, and nothing else."""
        size = len(self.texts)
        return replace(
            self,
            texts=self.rest[:size],
            rest=self.rest[size:],
            long=[],
            far=[],
            items=[],
            prompts=[],
            text=[],
            spans=[],
            first=False,
        )


def gather(
    subject: Subject, asked: Asked, task: Task, files: Mapping[str, Path], advance: Callable[[int], None]
) -> Evidence:
    """Collect what was drawn, read and given.

    Args:
        subject: what is verified.
        asked: how much.
        task: whose answers are scored.
        files: `evidence`, the folder of the model's own answers; `evaluation`, the task's held-out items, if it has
            some; `text`, the one for perplexity, unless it is built in.
        advance: takes steps of the work.
    """
    facts, tokenizer, form = subject.facts, subject.tokenizer, subject.form
    texts = _own(subject, files["evidence"], subject.made_as.sequence_length(form), advance)
    first = first_round(len(texts), facts.vocab_size, max(len(text.ids) for text in texts))
    sequences = [text.ids for text in texts]
    long = long_text(sequences, facts.windows, form) if subject.made_as.long else []
    held_out = files.get("evaluation")
    items = read_items(held_out, asked.items_per_task) if held_out is not None and subject.executable else []
    prompts = [tokenizer.encode(facts.chat.render(item.messages), add_special_tokens=False).ids for item in items]
    text: list[int] = []
    spans: list[Window] = []
    if asked.text is not None:
        text = text_ids(asked.text, files.get("text"), asked.text_tokens, facts, tokenizer)
        spans = windows(len(text), asked.window, asked.stride)
    steps = (6 if subject.quantization.scheme in DYNAMIC else 5) * first + 2 * len(items) + 2 * bool(long)
    return Evidence(
        texts=texts[:first],
        rest=texts[first:],
        long=long,
        far=far_text(sequences, facts.windows, form),
        items=items,
        prompts=prompts,
        budget=max((use.max_new_tokens for use in task.use_cases.values()), default=64),
        text=text,
        spans=spans,
        steps=steps + (3 if subject.executable else 2) * len(spans),
    )


def _own(subject: Subject, folder: Path, limit: int, advance: Callable[[int], None]) -> list[Conversation]:
    """The model's own answers, no longer than a call takes; the program's where the model was too large to answer."""
    found = own_text.read(folder)
    if subject.executable and not any(len(each.ids) > each.prompt for each in found):
        given = [each.ids[: limit - 1] for each in found]
        length = max(1, limit - max(map(len, given)))
        found = own_text.draw_by_program(subject.open_program(), given, subject.facts.eos_ids, length, advance)
    return [each.cut(limit) for each in found]


def first_round(count: int, vocabulary: int, length: int) -> int:
    """How many sequences are compared at first: a third, and no more than memory has room for."""
    return min(count, max(FEWEST_SEQUENCES, min(-(-count // 3), LOGIT_BYTES // (4 * vocabulary * length))))


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
