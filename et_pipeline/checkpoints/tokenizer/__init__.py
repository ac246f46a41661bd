"""Whether the phone's tokenizer makes of a text what Hugging Face's makes of it, and what is done if it does not.

ExecuTorch's runners read `tokenizer.json` with code of their own (pytorch_tokenizers, in C++), which lacks parts of the
format and does others differently. So it is asked about a corpus; where it differs, the file in the bundle is written
in an equal form that it does read. What cannot be mended is refused before anything heavy starts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.chat_template import PLAIN, ChatFormat
from et_pipeline.checkpoints.tokenizer.changes import (
    Duties,
    bytes_last,
    prepared,
    scheme_of,
    short,
    without_metaspace,
    without_normalizer,
    without_space_tokens,
    without_white_space,
)
from et_pipeline.checkpoints.tokenizer.compare import compare, expected_of, runtime, unmerged_words
from et_pipeline.checkpoints.tokenizer.corpus import conversations, corpus, next_turns, of_tokens, of_words
from et_pipeline.checkpoints.tokenizer.file import FILE, SPACE, Form, save
from et_pipeline.errors import UserError

__all__ = ["FILE", "Mended", "extensions", "mend", "runtime", "save"]

SHOWN = 3


class Mended(NamedTuple):
    """A tokenizer that is the same everywhere.

    Attributes:
        content: of its tokenizer.json.
        normalization: what a caller has to do to each text; None: nothing.
        lstrip: added tokens before which a caller has to leave white space out.
        rstrip: added tokens behind which it has to.
        sentences: what was changed.
        strings: how many texts were compared.
        unmerged: words that are one token of the vocabulary, and that no merges make.
        android: what Android's library of ExecuTorch 1.3 still makes otherwise, a sentence each.
    """

    content: dict[str, Any]
    normalization: Form | None
    lstrip: tuple[str, ...]
    rstrip: tuple[str, ...]
    sentences: list[str]
    strings: int
    unmerged: list[str]
    android: list[str]


def mend(path: Path, vocab_size: int, scratch: Path, chat: ChatFormat = PLAIN, bos_id: int | None = None) -> Mended:
    """Find a form of a tokenizer.json that gives Hugging Face's ids and texts in the phone's tokenizer.

    Args:
        path: the original file.
        vocab_size: tokens that the model has.
        scratch: folder for files to try.
        chat: the compiled chat template.
        bos_id: the token that callers put before a text; None: they put none there.

    Raises:
        UserError: there is none; names the texts that differ.
    """
    original = json.loads(path.read_text(encoding="utf-8"))
    content, sentences = prepared(original, vocab_size)
    duties = Duties()
    unmerged = unmerged_words(path, original)
    texts, turns, lead = _asked(content, chat, unmerged)
    expected = expected_of(path, original, vocab_size, texts, turns)
    differences = compare(content, duties, expected, scratch, bos_id)
    for change in (
        partial(without_metaspace, lead=lead),
        bytes_last,
        without_space_tokens,
        without_normalizer,
        without_white_space,
    ):
        if not differences:
            break
        changed, said, needed = change(content)
        if not said:
            continue
        needed = duties.with_(needed)
        left = compare(changed, needed, expected, scratch, bos_id)
        if len(left) < len(differences):
            content, differences, duties = changed, left, needed
            sentences += said
    if differences:
        shown = "; ".join(
            f"{short(repr(text))} becomes {short(str(found))} and not {short(str(right))}"
            for text, right, found in differences[: SHOWN if len({str(each.found) for each in differences}) > 1 else 1]
        )
        raise UserError(
            f"{path}: {runtime()}, which phones use, makes something else than Hugging Face's tokenizers of "
            f"{len(differences)} of {len(expected)} texts: {shown}. No form of the file that it reads alike was found; "
            "use a model with a byte-level BPE tokenizer, or one like Llama's"
        )
    return Mended(content, *duties, sentences, len(expected), unmerged, _in_android(content, unmerged))


def _asked(
    content: dict[str, Any], chat: ChatFormat, unmerged: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]], str]:
    """Texts to compare, turns as `expected_of` takes them, and what each text has to begin with."""
    added = [token["content"] for token in content["added_tokens"]]
    # Of several marks of spaces nothing is made: where these stand beside a space without_space_tokens says so.
    own = of_tokens([token for token in content["added_tokens"] if set(token["content"]) - {SPACE}])
    texts = [*corpus(), *own, *of_words(unmerged)]
    whole = [] if chat.is_plain else conversations(chat)
    turns = [] if chat.is_plain else _from_a_token(next_turns(chat), chat, added)
    lead = ""
    if scheme_of(content) == "first":  # a mark before a text, but not behind a special token
        if any(chat.start_to_user.startswith(token) for token in added):
            lead = chat.start_to_user
            texts = [lead + text for text in texts]
        else:
            texts, whole = ([t for t in each if not any(token in t for token in added)] for each in (texts, whole))
            turns = []
    return list(dict.fromkeys([*texts, *whole])), turns, lead


def _from_a_token(pairs: Sequence[tuple[str, str]], chat: ChatFormat, added: Sequence[str]) -> list[tuple[str, str]]:
    """Turns from their first added token on: what is before it goes with the answer, which the model itself writes."""
    found = [at for token in added if (at := chat.assistant_to_user.find(token)) >= 0]
    return [(whole, turn[min(found) :]) for whole, turn in pairs] if found else []


def _in_android(content: dict[str, Any], unmerged: Sequence[str]) -> list[str]:
    """What Android's library of ExecuTorch 1.3 makes otherwise, where no form of the file helps, a sentence each."""
    said = []
    if unmerged and content["model"].get("ignore_merges"):
        words = ", ".join(repr(word) for word in unmerged[:SHOWN])
        said.append(
            f"Android's library of ExecuTorch 1.3 does not know ignore_merges: {len(unmerged)} words of the "
            f"vocabulary that no merges make, such as {words}, come in more tokens there; 1.5 makes one of each"
        )
    added = [token["content"] for token in content["added_tokens"]]
    if longer := extensions(added):
        names = ", ".join(longer[:SHOWN])
        said.append(
            f"Android's library of ExecuTorch 1.3 takes the shorter of two added tokens that begin alike: {names} "
            "are others there; 1.5 takes the longer one"
        )
    return said


def extensions(tokens: Sequence[str]) -> list[str]:
    """Those that begin with another."""
    known = set(tokens)
    return [token for token in tokens if any(token[:end] in known for end in range(1, len(token)))]
