"""How a program is fed: a prompt in one piece, in chunks, and token by token must give the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from et_pipeline.errors import UserError
from et_pipeline.manifest import WaysOfFeeding

if TYPE_CHECKING:
    import torch

    from et_pipeline.runtime.program import Program

FEEDINGS = tuple(WaysOfFeeding.model_fields)
CHUNK = 7  # divides neither the prompts' lengths nor the prefill chunk: the last piece is a short one


class Fed(NamedTuple):
    """What came out: logits [N, vocabulary] at some positions of a sequence."""

    positions: list[int]
    rows: torch.Tensor


def feed(program: Program, sequence: list[int], way: str) -> Fed:
    """Feed a sequence in one of the three ways."""
    import torch

    tokens = torch.tensor([sequence])
    length = len(sequence)
    if way == "one_piece":
        calls = [(0, end) for end in sorted({max(1, length // 3), max(1, 2 * length // 3), length})]
    else:
        size = 1 if way == "token_by_token" else CHUNK
        calls = [(start, min(start + size, length)) for start in range(0, length, size)]
    rows = [program.forward(tokens[:, start:end], start) for start, end in calls]
    return Fed([end - 1 for _, end in calls], finite(torch.stack(rows), way))


def feed_long(program: Program, text: list[int], end: int, advance: Callable[[int], None]) -> torch.Tensor:
    """Feed a long text in pieces as large as possible, its end token by token; the last logits [end, vocabulary]."""
    import torch

    tokens = torch.tensor([text])
    first = len(text) - end + 1
    rows = [program.prefill(tokens[:, :first])]
    rows += [program.forward(tokens[:, at : at + 1], at) for at in range(first, len(text))]
    advance(1)
    return finite(torch.stack(rows), "a long text")


def finite(logits: torch.Tensor, way: str) -> torch.Tensor:
    """The logits, if they are numbers."""
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"the lowered program computes logits that are not finite (fed as {way}): the backend computes this "
            "recipe wrongly; choose another recipe"
        )
    return logits
