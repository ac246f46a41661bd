"""Whether the phone's tokenizer makes of a text what Hugging Face's makes of it, and what is done if it does not.

ExecuTorch's runners read `tokenizer.json` with code of their own (pytorch_tokenizers, in C++), which lacks parts of the
format and does others differently. So it is asked about a corpus; where it differs, the file in the bundle is written
in an equal form that it does read. What cannot be mended is refused before anything heavy starts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from et_pipeline.chat_template import PLAIN, ChatFormat
from et_pipeline.checkpoints.config import one_sentence, reason
from et_pipeline.checkpoints.tokenizer_corpus import conversations, corpus, next_turns, of_tokens, of_words
from et_pipeline.errors import UserError

FILE = "tokenizer.json"
SPACE = "▁"  # SentencePiece's mark
_RUNS = {SPACE, "\n", "\t"}
SHOWN = 3
# Of a tokenizer.json, and what their sequences call the steps.
_PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")
_FAILS = "nothing, as it fails"
_BEGIN = "\U000f1a2b"  # of private use: no text has it
# Unicode's White_Space, as Hugging Face's tokenizers take it: neither Python's strip nor Kotlin's trim means just this.
WHITE_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


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


class _Difference(NamedTuple):
    text: str
    expected: object
    found: object


def runtime() -> str:
    """The phone's tokenizer, as it runs here, and its version."""
    return f"pytorch_tokenizers {metadata.version('pytorch-tokenizers')}"


def normalize(text: str, form: Form | None, lstrip: Sequence[str] = (), rstrip: Sequence[str] = ()) -> str:
    """Do what a mended tokenizer's file leaves to the caller."""
    for token in lstrip:
        *parts, last = text.split(token)
        text = token.join([*(part.rstrip(WHITE_SPACE) for part in parts), last])
    for token in rstrip:
        first, *parts = text.split(token)
        text = token.join([first, *(part.lstrip(WHITE_SPACE) for part in parts)])
    return text if form is None else unicodedata.normalize(form, text)


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
    content, sentences, duties = original, [], _Duties()
    for each in (
        _without_blocks,
        _without_dropout,
        _without_empty_steps,
        lambda it: _without_strangers(it, vocab_size),
        _without_strip,
    ):
        content, said = each(content)
        sentences += said
    added = [token["content"] for token in content["added_tokens"]]
    unmerged = _unmerged(path, original)
    # Of several marks of spaces nothing is made: where these stand beside a space _without_space_tokens says so.
    own = of_tokens([token for token in content["added_tokens"] if set(token["content"]) - {SPACE}])
    texts = [*corpus(), *own, *of_words(unmerged)]
    lead = ""
    is_first = _scheme(content) == "first"  # a mark before a text, but not behind a special token
    if is_first and any(chat.start_to_user.startswith(token) for token in added):
        lead = chat.start_to_user
        texts = [lead + text for text in texts]
    whole = [] if chat.is_plain else conversations(chat)
    turns = [] if chat.is_plain else _from_a_token(next_turns(chat), chat, added)
    if is_first and not lead:
        texts, whole = ([text for text in each if not any(token in text for token in added)] for each in (texts, whole))
        turns = []
    expected = _expected(path, original, vocab_size, list(dict.fromkeys([*texts, *whole])), turns)
    differences = _compare(content, duties, expected, path, scratch, bos_id)
    for change in (
        partial(_without_metaspace, lead=lead),
        _bytes_last,
        _without_space_tokens,
        _without_normalizer,
        _without_white_space,
    ):
        if not differences:
            break
        changed, said, needed = change(content)
        if not said:
            continue
        needed = duties.with_(needed)
        left = _compare(changed, needed, expected, path, scratch, bos_id)
        if len(left) < len(differences):
            content, differences, duties = changed, left, needed
            sentences += said
    if differences:
        shown = "; ".join(
            f"{_short(repr(text))} becomes {_short(str(found))} and not {_short(str(right))}"
            for text, right, found in differences[: SHOWN if len({str(each.found) for each in differences}) > 1 else 1]
        )
        raise UserError(
            f"{path}: {runtime()}, which phones use, makes something else than Hugging Face's tokenizers of "
            f"{len(differences)} of {len(expected)} texts: {shown}. No form of the file that it reads alike was found; "
            "use a model with a byte-level BPE tokenizer, or one like Llama's"
        )
    return Mended(content, *duties, sentences, len(expected), unmerged, _in_android(content, unmerged))


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


class _Duties(NamedTuple):
    """What a file leaves to the caller, as `normalize` takes it."""

    normalization: Form | None = None
    lstrip: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()

    def with_(self, more: _Duties) -> _Duties:
        return _Duties(more.normalization or self.normalization, more.lstrip or self.lstrip, more.rstrip or self.rstrip)


def save(content: dict[str, Any], path: Path) -> None:
    """Write a tokenizer.json."""
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


class _Expected(NamedTuple):
    text: str
    ids: list[int]
    back: str


def _expected(
    path: Path, content: dict[str, Any], vocab_size: int, texts: Sequence[str], turns: Sequence[tuple[str, str]]
) -> list[_Expected]:
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
            found.append(_Expected(text, ids, tokenizer.decode(ids, skip_special_tokens=False)))
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


def _unmerged(path: Path, content: dict[str, Any]) -> list[str]:
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


def _from_a_token(pairs: Sequence[tuple[str, str]], chat: ChatFormat, added: Sequence[str]) -> list[tuple[str, str]]:
    """Turns from their first added token on: what is before it goes with the answer, which the model itself writes."""
    found = [at for token in added if (at := chat.assistant_to_user.find(token)) >= 0]
    return [(whole, turn[min(found) :]) for whole, turn in pairs] if found else []


def _compare(
    content: dict[str, Any],
    duties: _Duties,
    expected: Sequence[_Expected],
    path: Path,
    scratch: Path,
    bos_id: int | None,
) -> list[_Difference]:
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
        return [_Difference(text, ids, said) for text, ids, _ in expected]
    again = Tokenizer.from_file(str(file))
    differences = []
    for text, ids, back in expected:
        given = normalize(text, *duties)
        found = _encode(phone, given)
        other = again.encode(given, add_special_tokens=False).ids
        if found != ids or other != ids:
            differences.append(_Difference(text, ids, found if found != ids else other))
            continue
        said = _decode(phone, ids)
        # Spaces before an answer are the caller's to drop: token by token nobody knows which is the first. And where
        # Hugging Face's tokenizers do not give the text back, or bytes by their names, it is no fault to do so.
        rights = (back, given, _BYTES.sub(_character, back))
        if not any(said.endswith(right) and said.lstrip(" ") == right.lstrip(" ") for right in rights):
            differences.append(_Difference(text, back, said))
    if bos_id is not None:  # put there as text: Android's 1.3 has an option for it, and does nothing
        for word in ("Hello", " two  words\n", "模型"):
            begun = f"{again.id_to_token(bos_id)}{word}"
            right = [bos_id, *again.encode(word, add_special_tokens=False).ids]
            if (started := _encode(phone, normalize(begun, *duties))) != right:
                differences.append(_Difference(begun, right, started))
    # A model may say what no text becomes, such as a single byte.
    for token, number in again.get_vocab().items():
        said = _decode(phone, [number])
        if said.startswith(_FAILS):
            differences.append(_Difference(token, f"the text of {number}", said))
    for character in "é模🙂":
        found_ids = [again.token_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
        numbers = [number for number in found_ids if number is not None]
        if len(numbers) == len(found_ids):
            both = (_decode(phone, numbers), again.decode(numbers))
            differences += [_Difference(str(numbers), character, said) for said in both if said != character]
    return differences


def _character(names: re.Match[str]) -> str:
    """The text of bytes that are named `<0x0A>`."""
    return bytes.fromhex(names[0].replace("<0x", "").replace(">", "")).decode("utf-8", "replace")


def _unloadable(content: dict[str, Any], scratch: Path) -> str:
    """The part of a file that the phone's tokenizer does not load."""
    from pytorch_tokenizers import CppHFTokenizer

    file = scratch / FILE
    for name in _PARTS:
        save({**content, name: None}, file)
        with suppress(RuntimeError):
            CppHFTokenizer().load(str(file))
            return f"its {name} ({', '.join(step['type'] for step in _steps(content, name))})"
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


def _without_blocks(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    blocks = [name for name in ("truncation", "padding") if content.get(name) is not None]
    said = [f"its {' and '.join(blocks)} are left out: a conversation is neither cut nor filled up"] if blocks else []
    return {**content, "truncation": None, "padding": None}, said


def _without_dropout(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if not content["model"].get("dropout"):
        return content, []
    model = {**content["model"], "dropout": None}
    return {**content, "model": model}, ["its dropout is left out: it makes other tokens of a text each time"]


def _without_empty_steps(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """DeepSeek's files have a normalizer of no steps, which the phone's tokenizer does not load."""
    empty = [name for name in ("normalizer", "pre_tokenizer") if content.get(name) and not _steps(content, name)]
    said = [f"its {name} of no steps is left out" for name in empty]
    return {**content, **dict.fromkeys(empty)}, said


def _without_strangers(content: dict[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    added = content.get("added_tokens") or []
    names = [token["content"] for token in added if token["id"] >= vocab_size]
    kept = [token for token in added if token["id"] < vocab_size]
    said = [f"{_short(', '.join(names))}, which the model does not have, is text like any other"] if names else []
    return {**content, "added_tokens": kept}, said


def _without_strip(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The phone's tokenizer decodes token by token, and would strip the space of each word."""
    decoder = content.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    kept = [step for step in steps if step.get("type") != "Strip"]
    if len(kept) == len(steps):
        return content, []
    decoder = {"type": "Sequence", "decoders": kept}
    return {**content, "decoder": decoder}, ["an answer's first space stays: token by token, it would be each word's"]


_Change = tuple[dict[str, Any], list[str], _Duties]


def _scheme(content: dict[str, Any]) -> str | None:
    """Where Metaspace puts a mark before a text: `always`, `first`, `never`; None where it is not used."""
    steps = _steps(content, "pre_tokenizer")
    if [step["type"] for step in steps] != ["Metaspace"]:
        return None
    plain = steps[0].get("add_prefix_space") is False
    return "never" if plain else str(steps[0].get("prepend_scheme", "always"))


def _without_metaspace(content: dict[str, Any], lead: str) -> _Change:
    """Metaspace written as Llama 2's file has it: a normalizer that puts a mark before the text and for each space."""
    scheme = _scheme(content)
    if scheme is None:
        return content, [], _Duties()
    mark = _steps(content, "pre_tokenizer")[0].get("replacement", SPACE)
    normalizers = [*_steps(content, "normalizer")]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    if scheme == "never" or lead:
        normalizers.append(spaces)
    else:  # a text that begins with a space has its mark: replaced as strings, as regular expressions match anew
        begun = {"type": "Replace", "pattern": {"String": f"{_BEGIN}{mark}"}, "content": mark}
        begin = {"type": "Replace", "pattern": {"String": _BEGIN}, "content": mark}
        normalizers += [{"type": "Prepend", "prepend": _BEGIN}, spaces, begun, begin]
    back = {"type": "Replace", "pattern": {"String": mark}, "content": " "}
    decoders = [back if step["type"] == "Metaspace" else step for step in _steps(content, "decoder")]
    if content["model"].get("byte_fallback") and not any(step["type"] == "ByteFallback" for step in decoders):
        decoders.append({"type": "ByteFallback"})
    changed = {
        **content,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*decoders, {"type": "Fuse"}]},
    }
    said = "spaces are marked by a normalizer, as in Llama 2's file, and not by Metaspace"
    if lead:
        said += f"; no mark is put before a text, as each conversation begins with {lead!r}"
    return changed, [said], _Duties()


def _bytes_last(content: dict[str, Any]) -> _Change:
    """A byte of a character is no text, and the phone's tokenizer decodes each token by itself, step by step."""
    steps = [step for step in _steps(content, "decoder") if step["type"] != "Fuse"]
    kinds = [step["type"] for step in steps]
    marked = [
        {"type": "Replace", "pattern": {"String": step.get("replacement", SPACE)}, "content": " "}
        if step["type"] == "Metaspace"
        else step
        for step in steps
    ]
    ordered = sorted(marked, key=lambda step: step["type"] == "ByteFallback")
    if "ByteFallback" not in kinds or ordered == steps:
        return content, [], _Duties()
    decoder = {"type": "Sequence", "decoders": [*ordered, {"type": "Fuse"}]}
    return {**content, "decoder": decoder}, ["bytes of a character are put together after all else"], _Duties()


def _without_space_tokens(content: dict[str, Any]) -> _Change:
    """The phone's tokenizer takes added tokens out of what it merges, and Android's 1.3 finds none of them."""
    vocabulary = content["model"].get("vocab", {})
    added = content.get("added_tokens") or []
    kept = [t for t in added if t.get("special") or not set(t["content"]) <= _RUNS or t["content"] not in vocabulary]
    if len(kept) == len(added):
        return content, [], _Duties()
    said = (
        "tokens of several spaces or lines come from merges, not from the list of added tokens; their ids differ where "
    )
    return {**content, "added_tokens": kept}, [f"{said}{SPACE} itself stands beside a space in a text"], _Duties()


def _without_normalizer(content: dict[str, Any]) -> _Change:
    steps = _steps(content, "normalizer")
    forms = [step["type"] for step in steps if step["type"] in FORMS]
    if len(forms) != 1 or steps[0]["type"] != forms[0]:  # what comes before it is not the caller's to do
        return content, [], _Duties()
    left = steps[1:]
    normalizer = {"type": "Sequence", "normalizers": left} if left else None
    said = f"{forms[0]} is left to the caller: the phone's own is wrong"
    return {**content, "normalizer": normalizer}, [said], _Duties(cast("Form", forms[0]))


def _without_white_space(content: dict[str, Any]) -> _Change:
    """The phone's tokenizer keeps the white space that an added token takes with it."""
    left, right = (
        tuple(token["content"] for token in content["added_tokens"] if token.get(side) and token["content"])
        for side in ("lstrip", "rstrip")
    )
    said = [
        f"white space {where} {_short(', '.join(tokens))} is left out by the caller"
        for where, tokens in (("before", left), ("behind", right))
        if tokens
    ]
    return content, said, _Duties(None, left, right)


def _steps(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The steps of a part; of none it has none."""
    part = content.get(name)
    if part is None:
        return []
    return list(part[_PARTS[name]]) if part["type"] == "Sequence" else [part]


def _short(text: str, longest: int = 70) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
