"""Perplexity on a text that is longer than a model's context, and how near two models are on it.

The text is read through windows, each moved on by a stride: every token is scored once, given at least
`window - stride` tokens before it (but for the beginning). This is the sliding evaluation of "Perplexity of
fixed-length models" in Hugging Face's transformers documentation, token for token.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.facts import Facts
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare, merge
from et_pipeline.evaluation.tasks import read_items
from et_pipeline.evaluation.text_source import check_ids, documents
from et_pipeline.manifest import Agreement
from et_pipeline.tiny_assistant import EVAL

if TYPE_CHECKING:
    import torch

KEY = "verify.text"
BETWEEN = "\n\n"  # between documents, as WikiText's perplexity is usually measured
BLOCK_BYTES = 32_000_000  # of logits in float64 that are compared at a time


def text_ids(source: str, path: Path | None, count: int, facts: Facts, tokenizer: Any) -> list[int]:
    """The first tokens of a text, special tokens of its beginning included.

    Args:
        source: where the text comes from; see `text_source`. The built-in one is made of held-out conversations.
        path: the source's, from `text_source.resolve`.
        count: how many tokens.
        facts: the model's; conversations get its chat format.
        tokenizer: the model's.

    Raises:
        UserError: the text has fewer tokens, or one that the model does not have.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = _conversations(count, facts, tokenizer) if path is None else _beginning(source, path, count, tokenizer)
    check_ids(KEY, source, ids, facts.vocab_size)
    if len(ids) < count:
        raise UserError(
            f"{KEY}={source} has {len(ids)} tokens, and verify.text_tokens={count} asks for more; lower it, or give "
            "more text"
        )
    return ids


def _beginning(source: str, path: Path, count: int, tokenizer: Any) -> list[int]:
    """Encode no more of a text than is needed: it may be large."""
    parts: list[str] = []
    length, wanted = 0, 8 * count  # characters
    for document in documents(KEY, source, path):
        parts.append(document)
        length += len(document)
        while length > wanted:
            # One more than is needed: the last token may be another one with what follows it.
            if len(ids := tokenizer.encode(BETWEEN.join(parts)[:wanted]).ids) > count:
                return ids[:count]
            wanted *= 2
    return tokenizer.encode(BETWEEN.join(parts)).ids[:count]


def _conversations(count: int, facts: Facts, tokenizer: Any) -> list[int]:
    items = read_items(EVAL)
    ids: list[int] = []
    for item in random.Random(0).sample(items, len(items)):
        if len(ids) >= count:
            break
        ids += tokenizer.encode(facts.chat.render(item.messages) + item.answer, add_special_tokens=False).ids
        ids.append(facts.eos_ids[0])
    return ids[:count]


class Window(NamedTuple):
    """A piece of a text, `text[start:end]`; its tokens from index `first` on are scored."""

    start: int
    end: int
    first: int


def windows(tokens: int, size: int, stride: int) -> list[Window]:
    """The windows over a text in which each token but the first is scored once.

    Args:
        tokens: the text's length, at least 2.
        size: tokens of a window.
        stride: how far the next one is moved, below `size`.
    """
    found: list[Window] = []
    scored = 1
    for start in range(0, tokens, stride):
        end = min(start + size, tokens)
        if end > scored:
            found.append(Window(start, end, scored - start))
            scored = end
    return found


def loss(logits: torch.Tensor, targets: Sequence[int]) -> float:
    """How unlikely tokens are to a model: negative log likelihood in nats, summed over N tokens.

    Args:
        logits: [N, V], each what predicts a token.
        targets: the N token ids.
    """
    import torch
    from torch.nn import functional

    ids = torch.tensor(targets, dtype=torch.long)
    parts = (functional.cross_entropy(logits[rows].double(), ids[rows], reduction="sum") for rows in _blocks(logits))
    return sum(part.item() for part in parts)


def agreement(found: torch.Tensor, reference: torch.Tensor) -> Agreement:
    """`compare`, a block at a time: in float64, all of a window would take gigabytes where the vocabulary is large."""
    return merge([compare(found[rows], reference[rows]) for rows in _blocks(found)])


def _blocks(logits: torch.Tensor) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (8 * logits.shape[1]))
    return (slice(at, at + size) for at in range(0, logits.shape[0], size))


def perplexity(losses: Sequence[float], tokens: int) -> float:
    """What a model's loss on a text is per token, as exp of the mean."""
    return math.exp(math.fsum(losses) / tokens)
