"""How far a token of a text sees to both sides, found out from a family's own masks.

A family's code asks transformers for its masks: causal ones, windows to one side or to both. What it asks for is a
function of two positions. A program needs no table of what that gives for each pair, which would grow with the square
of the longest text, if it depends on their distance alone; so that is proven, and a mask made of the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers.masking_utils import AttentionMaskInterface

from et_pipeline.errors import UserError
from et_pipeline.models.attention import MASKED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 33  # of a mask, of which each is looked at whole


class Reach(NamedTuple):
    """How many tokens a token sees before and behind itself; None for all of them."""

    back: int | None = None
    ahead: int | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is hidden."""
        return self == (None, None)


Answer = Callable[[Any, Any], torch.Tensor | None]

_answers: ContextVar[Answer] = ContextVar("answers")


def find_reaches(model: PreTrainedModel, implementation: str, longest: int) -> list[Reach]:
    """What the family asks for in a forward, in its order.

    Args:
        model: an encoder of transformers, with its weights.
        implementation: name of an attention that takes any mask, None among them.
        longest: tokens of the longest text.

    Raises:
        UserError: a mask is of another kind.
    """
    found: list[Reach] = []
    family = model.config.model_type

    def note(mask_function: Any, length: Any) -> None:
        found.append(_reach(mask_function, longest, family))

    with torch.no_grad(), answered(model.config, implementation, note):
        model(input_ids=torch.zeros(1, 2, dtype=torch.long))
    return found


def _reach(mask_function: Any, longest: int, family: str) -> Reach:
    """See `find_reaches`; some rows are enough for what is linear in the positions."""
    batch = torch.zeros((), dtype=torch.long)
    rows = torch.linspace(0, longest - 1, min(ROWS, longest)).long().unsqueeze(1)
    columns = torch.arange(longest).unsqueeze(0)
    seen = torch.as_tensor(mask_function(batch, batch, rows, columns)).expand(len(rows), longest)
    distance = (columns - rows).expand_as(seen)
    # Both ends are those of the pairs that see each other: where such a pair is the farthest there is, that is no end.
    back, ahead = -int(distance[seen].min()), int(distance[seen].max())
    if not torch.equal(seen, (distance >= -back) & (distance <= ahead)):
        raise UserError(f"family {family} hides tokens from each other in a way that this version cannot export")
    end = longest - 1
    return Reach(None if back >= end else back, None if ahead >= end else ahead)


@contextmanager
def answered(config: Any, implementation: str, answer: Answer) -> Iterator[None]:
    """Within the context the model of a config attends as `implementation`, and its masks are what `answer` gives."""
    usual = config._attn_implementation
    token = _answers.set(answer)
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = usual
        _answers.reset(token)


def register(implementation: str) -> None:
    """Let the masks of an attention be asked for here."""

    def ask(*, q_length: Any, mask_function: Any, **unused: Any) -> torch.Tensor | None:
        return _answers.get()(mask_function, q_length)

    AttentionMaskInterface.register(implementation, ask)


def masks(reaches: list[Reach]) -> Answer:
    """What answers a family's questions of one forward; a mask is made once for all that ask for the same."""
    order, made = iter(reaches), dict[Reach, torch.Tensor]()

    def answer(mask_function: Any, length: Any) -> torch.Tensor | None:
        reach = next(order)
        if reach.is_all:
            return None
        if reach not in made:
            made[reach] = unseen(reach, length)
        return made[reach]

    return answer


def unseen(reach: Reach, length: Any, hidden: float = MASKED) -> torch.Tensor:
    """What is added to the scores of the tokens (rows) with each other: 0, or `hidden` and less; [length, length]."""
    positions = torch.arange(length, dtype=torch.long).to(torch.float32)  # delegates take floats
    distance = positions.unsqueeze(0) - positions.unsqueeze(1)
    parts = []
    if reach.ahead is not None:
        parts.append(torch.clamp((distance - reach.ahead) * hidden, max=0.0))
    if reach.back is not None:
        parts.append(torch.clamp((distance + reach.back) * -hidden, max=0.0))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
