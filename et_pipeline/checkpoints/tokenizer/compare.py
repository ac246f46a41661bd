"""What Hugging Face's tokenizers make of texts, and whether the phone's makes the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, cast

from et_pipeline.checkpoints.config import one_sentence, reason
from et_pipeline.checkpoints.tokenizer.changes import Duties
from et_pipeline.checkpoints.tokenizer.file import FILE, PARTS, normalize, save, steps_of

_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")
_FAILS = "nothing, as it fails"


class Difference(NamedTuple):
    """A text of which another tokenizer makes something else."""

    text: str
    expected: object
    found: object


def runtime() -> str:
    """The phone's tokenizer, as it runs here, and its version."""
    return f"pytorch_tokenizers {metadata.version('pytorch-tokenizers')}"


class Expected(NamedTuple):
    """The ids of a text, and what text these are."""

    text: str
    ids: list[int]
    back: str


def expected_of(
    path: Path, content: dict[str, Any], vocab_size: int, texts: Sequence[str], turns: Sequence[tuple[str, str]]
) -> list[Expected]:
    """What Hugging Face's tokenizers make of the texts: ids without special tokens around, and the text of these.

    Args:
        path: the original file.
        content: its content.
        vocab_size: tokens that the model has.
        texts: whole texts.
        turns: a whole text, and the end of it that is fed by itself.
    """
    tokenizer = _load(path)
    strangers = [token["content"] for token in content.get("added_tokens", []) if token["id"] >= vocab_size]
    found = []
    for whole, text in [*((text, text) for text in texts), *turns]:
        if not any(stranger in whole for stranger in strangers):
            encoding = tokenizer.encode(whole, add_special_tokens=False)
            ids = encoding.ids
            if whole != text:
                begin = len(whole) - len(text)
                ids = [token for token, (_, end) in zip(ids, encoding.offsets, strict=True) if end > begin]
            found.append(Expected(text, ids, tokenizer.decode(ids, skip_special_tokens=False)))
    return found


def _load(path: Path) -> Any:
    """The original in Hugging Face's tokenizers, without what has no part in a conversation."""
    from tokenizers import Tokenizer

    with one_sentence(f"{path} is not a readable tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


def unmerged_words(path: Path, content: dict[str, Any]) -> list[str]:
    """Words that are one token of the vocabulary, and that a BPE tokenizer's merges do not make."""
    if content["model"].get("type") != "BPE":
        return []
    tokenizer = _load(path)
    if content["model"].get("ignore_merges"):
        tokenizer.model.ignore_merges = False
    added = {token["id"] for token in content.get("added_tokens") or []}
    found = []
    for token, number in sorted(content["model"]["vocab"].items(), key=lambda item: item[1]):
        if number not in added and [each.id for each in tokenizer.model.tokenize(token)] != [number]:
            found.append(tokenizer.decode([number], skip_special_tokens=False))
    return [word for word in found if word and "\ufffd" not in word]


def compare(
    content: dict[str, Any],
    duties: Duties,
    expected: Sequence[Expected],
    scratch: Path,
    bos_id: int | None,
) -> list[Difference]:
    """Texts of which the phone's tokenizer, or Hugging Face's on the new file, makes something else."""
    from pytorch_tokenizers import CppHFTokenizer
    from tokenizers import Tokenizer

    file = scratch / FILE
    save(content, file)
    phone = CppHFTokenizer()
    try:
        phone.load(str(file))
    except RuntimeError:
        said = f"nothing, as {_unloadable(content, scratch)} does not load"
        return [Difference(text, ids, said) for text, ids, _ in expected]
    again = Tokenizer.from_file(str(file))
    differences = []
    for text, ids, back in expected:
        given = normalize(text, *duties)
        found = _encode(phone, given)
        other = again.encode(given, add_special_tokens=False).ids
        if found != ids or other != ids:
            differences.append(Difference(text, ids, found if found != ids else other))
            continue
        said = _decode(phone, ids)
        # Spaces before an answer are the caller's to drop: token by token nobody knows which is the first. And where
        # Hugging Face's tokenizers do not give the text back, or bytes by their names, it is no fault to do so.
        rights = (back, given, _BYTES.sub(_character, back))
        if not any(said.endswith(right) and said.lstrip(" ") == right.lstrip(" ") for right in rights):
            differences.append(Difference(text, back, said))
    if bos_id is not None:  # put there as text: Android's 1.3 has an option for it, and does nothing
        for word in ("Hello", " two  words\n", "模型"):
            begun = f"{again.id_to_token(bos_id)}{word}"
            right = [bos_id, *again.encode(word, add_special_tokens=False).ids]
            if (started := _encode(phone, normalize(begun, *duties))) != right:
                differences.append(Difference(begun, right, started))
    # A model may say what no text becomes, such as a single byte.
    for token, number in again.get_vocab().items():
        said = _decode(phone, [number])
        if said.startswith(_FAILS):
            differences.append(Difference(token, f"the text of {number}", said))
    for character in "é模🙂":
        found_ids = [again.token_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
        numbers = [number for number in found_ids if number is not None]
        if len(numbers) == len(found_ids):
            both = (_decode(phone, numbers), again.decode(numbers))
            differences += [Difference(str(numbers), character, said) for said in both if said != character]
    return differences


def _character(names: re.Match[str]) -> str:
    """The text of bytes that are named `<0x0A>`."""
    return bytes.fromhex(names[0].replace("<0x", "").replace(">", "")).decode("utf-8", "replace")


def _unloadable(content: dict[str, Any], scratch: Path) -> str:
    """The part of a file that the phone's tokenizer does not load."""
    from pytorch_tokenizers import CppHFTokenizer

    file = scratch / FILE
    for name in PARTS:
        save({**content, name: None}, file)
        with suppress(RuntimeError):
            CppHFTokenizer().load(str(file))
            return f"its {name} ({', '.join(step['type'] for step in steps_of(content, name))})"
    return f"its model ({content['model'].get('type')})"


def _encode(phone: Any, text: str) -> list[int] | str:
    try:
        return list(phone.encode(text, 0, 0))
    except (RuntimeError, ValueError) as error:
        return reason(error)


def _decode(phone: Any, ids: Sequence[int]) -> str:
    try:
        return b"".join(piece(phone, token) for token in ids).decode("utf-8", "replace")
    except (RuntimeError, ValueError) as error:
        return f"{_FAILS} ({reason(error)})"


def piece(phone: Any, token: int) -> bytes:
    """The bytes of a token's text in the phone's tokenizer; they may be a part of a character."""
    try:
        return cast("str", phone.decode(token)).encode()
    except UnicodeDecodeError as error:  # the binding wants whole characters, and the error has what it found
        return bytes(error.object)
