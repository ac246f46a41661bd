"""Text that shows the activations, as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.prompts import CALIBRATION
from et_pipeline.evaluation.text_source import check_ids, documents
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import OWN, Calibration, LearnedText
from et_pipeline.tiny_assistant.text import training_samples

KEY = "recipe.calibration.source"
LEARNED = "adapt.text.source"
LENGTH = 512  # tokens of one text, where the program's form does not ask for another


def learned(text: LearnedText, inputs: Mapping[str, Path]) -> list[list[int]]:
    """Token ids of the texts that a model learns from.

    Args:
        text: where they are from.
        inputs: of the stage: the checkpoint, what is known of it, and own answers (`training`) or a given text.

    Raises:
        UserError: as `sequences`.
    """
    if text.source == OWN:
        return [each.ids for each in own_text.read(inputs["training"])]
    facts, tokenizer = Facts.read(inputs["acquire"]), Folder(inputs["checkpoint"]).tokenizer
    wanted = Calibration(source=text.source, tokens=text.sequences * text.length)
    path = inputs.get("training_text")
    return sequences(wanted, path, facts, tokenizer, text.length, LEARNED, "adapt.text.sequences x adapt.text.length")


def sequences(
    calibration: Calibration,
    path: Path | None,
    facts: Facts,
    tokenizer: Any,
    longest: int,
    key: str = KEY,
    count: str = "recipe.calibration.tokens",
) -> list[list[int]]:
    """Token ids of as many texts as the budget takes, none of them held out for evaluation.

    A text that is too long for one sequence goes on in the next. An encoder gets its texts cut, with their special
    tokens, and besides an empty text and one of full length: what the pooling computes depends on the length, so the
    shortest and the longest text make its range.

    Of the model's own answers there may be fewer tokens than are asked for, as it ends them when it likes.

    Args:
        calibration: where the text is, and how many tokens.
        path: the source's, from `text_source.resolve`; of the model's own answers their folder, of an encoder none.
        facts: the model's; conversations get its chat format.
        tokenizer: the model's.
        longest: most tokens of one sequence.
        key: the setting that says where the text is.
        count: the one that says how much.

    Raises:
        UserError: the text has fewer tokens than are asked for, or one that the model does not have.
    """
    embeds = facts.pooling is not None
    if embeds:
        for_one_text(tokenizer, longest)
    elif calibration.source == OWN and path is not None:
        return _joined([each.ids for each in own_text.read(path)], calibration.tokens, longest)
    found: list[list[int]] = []
    used: list[str] = []
    left = calibration.tokens
    for text in _texts(calibration, path, facts, key):
        ids = tokenizer.encode(text, add_special_tokens=embeds).ids[:left]
        check_ids(key, calibration.source, ids, facts.vocab_size)
        found += [ids[at : at + longest] for at in range(0, len(ids), longest)]
        used.append(text)
        left -= len(ids)
        if left <= 0:
            ends = ("", " ".join(used * (1 + longest // len(used)))) if embeds else ()
            return found + [ids for ids in (tokenizer.encode(end).ids for end in ends) if ids]
    raise UserError(
        f"{key}={calibration.source} has {calibration.tokens - left} tokens, and {count}={calibration.tokens} asks for "
        "more; lower it, or give more text"
    )


def _joined(answers: list[list[int]], tokens: int, longest: int) -> list[list[int]]:
    """One behind the other, in sequences of equal length, which compute together; no more than the budget has."""
    ids = [token for answer in answers for token in answer][:tokens]
    whole = len(ids) - len(ids) % longest or len(ids)
    return [ids[at : at + longest] for at in range(0, whole, longest)]


def _texts(calibration: Calibration, path: Path | None, facts: Facts, key: str) -> Iterator[str]:
    if calibration.source == OWN:  # of an encoder: what others would be asked, alone and as longer texts
        for size in (1, 2, 4, 8, 16):
            yield from (" ".join(CALIBRATION[at : at + size]) for at in range(0, len(CALIBRATION), size))
        return
    if path is None:
        for sample in training_samples("calibration"):
            if facts.pooling is not None:
                yield from (*(message["content"] for message in sample.messages), sample.answer)
            else:
                yield facts.chat.render(sample.messages) + sample.answer
        return
    for document in documents(key, calibration.source, path):
        yield from filter(None, (part.strip() for part in document.split("\n\n")))
