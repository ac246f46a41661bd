"""Text that shows the ranges of activations, as token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from et_pipeline.errors import UserError
from et_pipeline.models.facts import Facts
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import Calibration, closest
from et_pipeline.tiny_assistant.text import training_samples

BUILTIN = "tiny_assistant"


def check_source(calibration: Calibration) -> None:
    """Refuse a source that holds no text.

    Raises:
        UserError: it does not exist, is not text, or is empty.
    """
    if calibration.source.startswith("builtin:"):
        name = calibration.source.removeprefix("builtin:")
        if name != BUILTIN:
            raise UserError(f"recipe.calibration.source={calibration.source} does not exist{closest(name, [BUILTIN])}")
        return
    _paragraphs(Path(calibration.source).expanduser())


def sequences(calibration: Calibration, facts: Facts, tokenizer: Any, longest: int) -> list[list[int]]:
    """Token ids of as many texts as the budget takes, none of them held out for evaluation.

    An encoder gets them with its special tokens, and besides an empty text and one of full length: what the pooling
    computes depends on the length, so the shortest and the longest text make its range.

    Args:
        calibration: where the text is, and how many tokens.
        facts: the model's; conversations get its chat format.
        tokenizer: the model's.
        longest: most tokens of one sequence.

    Raises:
        UserError: the text has fewer tokens than are asked for.
    """
    embeds = facts.pooling is not None
    if embeds:
        for_one_text(tokenizer, longest)
    found: list[list[int]] = []
    used: list[str] = []
    left = calibration.tokens
    for text in _texts(calibration, facts):
        ids = tokenizer.encode(text, add_special_tokens=embeds).ids[: min(longest, left)]
        if ids:
            found.append(ids)
            used.append(text)
            left -= len(ids)
        if left <= 0:
            ends = ("", " ".join(used * (1 + longest // len(used)))) if embeds else ()
            return found + [ids for ids in (tokenizer.encode(end).ids for end in ends) if ids]
    raise UserError(
        f"recipe.calibration.source={calibration.source} has {calibration.tokens - left} tokens, and "
        f"recipe.calibration.tokens={calibration.tokens} asks for more; lower it, or give more text"
    )


def _texts(calibration: Calibration, facts: Facts) -> Iterator[str]:
    if calibration.source.startswith("builtin:"):
        for sample in training_samples("calibration"):
            if facts.pooling is not None:
                yield from (*(message["content"] for message in sample.messages), sample.answer)
            else:
                yield facts.chat.render(sample.messages) + sample.answer
    else:
        yield from _paragraphs(Path(calibration.source).expanduser())


def _paragraphs(path: Path) -> list[str]:
    key = f"recipe.calibration.source={path}"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{key} is not a text file in UTF-8 (byte {error.start} is none)") from error
    except OSError as error:
        raise UserError(f"{key} cannot be read ({error.strerror}); give a text file, or builtin:{BUILTIN}") from error
    if "\0" in text:
        raise UserError(f"{key} is a binary file; give one with text")
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    if not paragraphs:
        raise UserError(f"{key} is empty; give a file with text")
    return paragraphs
