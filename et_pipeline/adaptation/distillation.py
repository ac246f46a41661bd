"""A student learns what its teacher makes of texts (Hinton et al. 2015, arXiv:1503.02531).

The teacher reads each text once. What it expects next is kept as its `TOP` likeliest tokens and what is left for all
others together, in files that the training maps into memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from et_pipeline.adaptation.checkpoint import load, save
from et_pipeline.adaptation.training import Batch, Schedule, Trained, together, train
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.quantization.walk import processor

if TYPE_CHECKING:
    from et_pipeline.worker import Tick

TOP = 128
_TOKENS, _LOGS, _DONE = "teacher-tokens.npy", "teacher-logs.npy", "teacher.json"


def distill(
    student: Path,
    teacher: Path,
    texts: Sequence[Sequence[int]],
    out: Path,
    work: Path,
    schedule: Schedule,
    tick: Tick,
    temperature: float = 1.0,
) -> Trained:
    """Train a student on its teacher's logits; write the checkpoint, its weights as float32.

    Args:
        student: its checkpoint.
        teacher: its checkpoint.
        texts: token ids, of equal length as far as possible.
        out: where the trained checkpoint goes.
        work: folder that survives a kill, from which a run goes on; it belongs to these arguments alone.
        schedule: how long and how fast.
        tick: takes the steps done and all of them, reading a hundredth of the texts and an update counting as one.
        temperature: that divides the logits of both.

    Raises:
        UserError: the two have different vocabularies, one of them is quantized, or the loss is no longer a number.
    """
    same_vocabulary(student, teacher)
    model = load(student, "distillation").requires_grad_(True)
    ask(teacher, texts, work, temperature, lambda done: tick(done, 100 + schedule.steps))
    examples = Answers(texts, work)
    trained = train(
        model,
        examples,
        collate,
        partial(distillation_loss, temperature=temperature),
        work,
        schedule,
        lambda done, steps, loss: tick(100 + done, 100 + steps, loss),
        together(model.config.vocab_size, max(map(len, texts))),
        mixed=True,
    )
    save(model, student, out)
    return trained


def same_vocabulary(student: Path, teacher: Path) -> None:
    """Refuse a teacher whose token ids mean something else.

    Raises:
        UserError: says what differs.
    """
    ours, theirs = Folder(student), Folder(teacher)
    sizes = [each.config.get("vocab_size") for each in (ours, theirs)]
    if sizes[0] != sizes[1] or ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        differs = f"vocab_size {sizes[1]} and not {sizes[0]}" if sizes[0] != sizes[1] else "other tokens"
        raise UserError(
            f"{teacher} cannot teach {student}: it has {differs}; take a teacher of the same family, or the original"
        )


def ask(
    teacher: Path, texts: Sequence[Sequence[int]], work: Path, temperature: float, advance: Callable[[int], None]
) -> None:
    """Write what a teacher expects after each token of some texts, going on where a killed run stopped.

    `teacher-tokens.npy` has the ids of its likeliest tokens, [tokens, k] of all texts one behind the other, and
    `teacher-logs.npy` the logarithm of their probabilities and of what is left, [tokens, k + 1] float16.

    Args:
        teacher: its checkpoint.
        texts: token ids.
        work: the folder.
        temperature: that divides the logits.
        advance: takes how many hundredths of the texts are read.
    """
    starts = np.cumsum([0, *map(len, texts)])
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # so that little is padded
    work.mkdir(parents=True, exist_ok=True)
    done = json.loads((work / _DONE).read_text(encoding="utf-8")) if (work / _DONE).is_file() else 0
    if done == len(texts):
        return
    model: Any = load(teacher, "distillation").to(processor())
    size = model.config.vocab_size
    top = min(TOP, size - 1)
    mode = "r+" if done else "w+"
    kind = np.uint16 if size <= 1 << 16 else np.int32
    tokens = np.lib.format.open_memmap(work / _TOKENS, mode, kind, (int(starts[-1]), top))
    logs = np.lib.format.open_memmap(work / _LOGS, mode, np.float16, (int(starts[-1]), top + 1))
    step = together(size, max(map(len, texts)))
    while done < len(texts):
        batch = order[done : done + step]
        ids = padded([torch.tensor(texts[number]) for number in batch]).to(processor())
        with torch.no_grad():
            found = model(input_ids=ids, use_cache=False).logits.float() / temperature
            likeliest = found.topk(top, -1)
            expected = grouped(found, likeliest.indices).half()
        for number, own, chosen in zip(batch, expected.cpu(), likeliest.indices.cpu(), strict=True):
            span = slice(starts[number], starts[number + 1])
            length = len(texts[number])
            tokens[span], logs[span] = chosen[:length].numpy(), own[:length].numpy()
        done += len(batch)
        for each in (tokens, logs):
            each.flush()
        (work / f"{_DONE}.tmp").write_text(json.dumps(done), encoding="utf-8")
        (work / f"{_DONE}.tmp").replace(work / _DONE)
        advance(100 * done // len(texts))


class Answers(torch.utils.data.Dataset[Any]):
    """Texts, and what a teacher expects after each of their tokens, in files."""

    def __init__(self, texts: Sequence[Sequence[int]], work: Path) -> None:
        self.texts, self.starts = texts, np.cumsum([0, *map(len, texts)])
        self.tokens, self.logs = (np.load(work / name, mmap_mode="r") for name in (_TOKENS, _LOGS))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        """A text's token ids [length], the likeliest next ones [length, k], and logarithms [length, k + 1] float32."""
        span = slice(self.starts[number], self.starts[number + 1])
        tokens, logs = self.tokens[span].astype(np.int64), self.logs[span].astype(np.float32)
        return torch.tensor(self.texts[number]), torch.from_numpy(tokens), torch.from_numpy(logs)


def collate(examples: list[tuple[torch.Tensor, ...]]) -> Batch:
    """Texts of different lengths as one batch; what is padded has no weight."""
    ids, tokens, logs = (padded(list(each)) for each in zip(*examples, strict=True))
    mask = padded([torch.ones_like(example[0]) for example in examples])
    return {"input_ids": ids, "attention_mask": mask, "teacher_tokens": tokens, "teacher_logs": logs}


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """Behind its end, where attention, which is causal, changes nothing before it."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def grouped(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Logarithms of the probabilities of some tokens and, last, of all others together.

    Args:
        logits: [..., vocabulary].
        tokens: [..., k] ids, k < vocabulary.

    Returns:
        [..., k + 1]. No probability is subtracted from another, so little ones are exact.
    """
    chosen = logits.gather(-1, tokens)
    rest = logits.scatter(-1, tokens, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, rest], -1).log_softmax(-1)


def distillation_loss(model: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """The mean of KL(teacher ‖ student) over a batch's tokens, all tokens beyond the teacher's likeliest being one.

    Multiplied by the temperature's square, so that gradients do not depend on it (arXiv:1503.02531).
    """
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
    ours = grouped(logits if temperature == 1 else logits / temperature, batch["teacher_tokens"])
    theirs = batch["teacher_logs"].log_softmax(-1)  # float16 has rounded them
    divergence = nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    kept = batch["attention_mask"].bool()
    return temperature**2 * divergence[kept].mean()
