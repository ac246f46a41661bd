"""Whether the phone's tokenizer makes of a text what Hugging Face's makes of it, and what is done if it does not.

ExecuTorch's runners read `tokenizer.json` with code of their own (pytorch_tokenizers, in C++), which lacks parts of the
format and does others differently. So it is asked about a corpus; where it differs, the file in the bundle is written
in an equal form that it does read. What cannot be mended is refused before anything heavy starts.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from et_pipeline.checkpoints.config import one_sentence, reason
from et_pipeline.checkpoints.tokenizer_corpus import corpus
from et_pipeline.errors import UserError

FILE = "tokenizer.json"
SPACE = "▁"  # SentencePiece's mark
_RUNS = {SPACE, "\n", "\t"}
SHOWN = 3
_FAILS = "nothing, as it fails"
_BEGIN = "\U000f1a2b"  # of private use: no text has it
Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class Mended(NamedTuple):
    """A tokenizer that is the same everywhere.

    Attributes:
        content: of its tokenizer.json.
        normalization: what a caller has to do to each text; None: nothing.
        sentences: what was changed.
        strings: how many texts were compared.
    """

    content: dict[str, Any]
    normalization: Form | None
    sentences: list[str]
    strings: int


class _Difference(NamedTuple):
    text: str
    expected: object
    found: object


def runtime() -> str:
    """The phone's tokenizer, as it runs here, and its version."""
    return f"pytorch_tokenizers {metadata.version('pytorch-tokenizers')}"


def normalize(text: str, form: Form | None) -> str:
    """Do what a mended tokenizer's file leaves to the caller."""
    return text if form is None else unicodedata.normalize(form, text)


def mend(path: Path, vocab_size: int, scratch: Path, lead: str = "") -> Mended:
    """Find a form of a tokenizer.json that gives Hugging Face's ids and texts in the phone's tokenizer.

    Args:
        path: the original file.
        vocab_size: tokens that the model has.
        scratch: folder for files to try.
        lead: the text that each conversation begins with.

    Raises:
        UserError: there is none; names the texts that differ.
    """
    original = json.loads(path.read_text(encoding="utf-8"))
    content, sentences, form = original, [], None
    for each in (_without_blocks, lambda it: _without_strangers(it, vocab_size), _without_strip):
        content, said = each(content)
        sentences += said
    texts = corpus()
    if _scheme(content) == "first":  # a mark before a text, but not behind a special token
        if any(lead.startswith(token["content"]) for token in content["added_tokens"]):
            texts = [lead + text for text in texts]
        else:
            lead = ""
            texts = [text for text in texts if not any(token["content"] in text for token in content["added_tokens"])]
    else:
        lead = ""
    expected = _expected(path, original, vocab_size, texts)
    differences = _compare(content, form, expected, path, scratch)
    for change in (partial(_without_metaspace, lead=lead), _bytes_last, _without_space_tokens, _without_normalizer):
        if not differences:
            break
        changed, said, needed = change(content)
        if not said:
            continue
        left = _compare(changed, needed or form, expected, path, scratch)
        if len(left) < len(differences):
            content, differences, form = changed, left, needed or form
            sentences += said
    if differences:
        shown = "; ".join(
            f"{_short(repr(text))} becomes {_short(str(found))} and not {_short(str(right))}"
            for text, right, found in differences[:SHOWN]
        )
        raise UserError(
            f"{path}: {runtime()}, which phones use, makes something else than Hugging Face's tokenizers of "
            f"{len(differences)} of {len(texts)} texts: {shown}. No form of the file that it reads alike was found; "
            "use a model with a byte-level BPE tokenizer, or one like Llama's"
        )
    return Mended(content, form, sentences, len(texts))


def save(content: dict[str, Any], path: Path) -> None:
    """Write a tokenizer.json."""
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


class _Expected(NamedTuple):
    text: str
    ids: list[int]
    back: str


def _expected(path: Path, content: dict[str, Any], vocab_size: int, texts: Sequence[str]) -> list[_Expected]:
    """What Hugging Face's tokenizers make of the texts: ids without special tokens around, and the text of these."""
    from tokenizers import Tokenizer

    with one_sentence(f"{path} is not a readable tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    strangers = [token["content"] for token in content.get("added_tokens", []) if token["id"] >= vocab_size]
    found = []
    for text in texts:
        if not any(stranger in text for stranger in strangers):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            found.append(_Expected(text, ids, tokenizer.decode(ids, skip_special_tokens=False)))
    return found


def _compare(
    content: dict[str, Any], form: Form | None, expected: Sequence[_Expected], path: Path, scratch: Path
) -> list[_Difference]:
    """Texts of which the phone's tokenizer, or Hugging Face's on the new file, makes something else."""
    from pytorch_tokenizers import CppHFTokenizer
    from tokenizers import Tokenizer

    file = scratch / FILE
    save(content, file)
    phone = CppHFTokenizer()
    try:
        phone.load(str(file))
    except RuntimeError as error:
        return [_Difference(text, ids, f"nothing, as it does not load ({reason(error)})") for text, ids, _ in expected]
    again = Tokenizer.from_file(str(file))
    differences = []
    for text, ids, back in expected:
        given = normalize(text, form)
        found = _encode(phone, given)
        other = again.encode(given, add_special_tokens=False).ids
        if found != ids or other != ids:
            differences.append(_Difference(text, ids, found if found != ids else other))
            continue
        said = _decode(phone, ids)
        # Spaces before an answer are the caller's to drop: token by token nobody knows which is the first. And where
        # Hugging Face's tokenizers do not give the text back, it is no fault to do so.
        if not any(said.endswith(right) and said.lstrip(" ") == right.lstrip(" ") for right in (back, given)):
            differences.append(_Difference(text, back, said))
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


def _encode(phone: Any, text: str) -> list[int] | str:
    try:
        return list(phone.encode(text, 0, 0))
    except (RuntimeError, ValueError) as error:
        return reason(error)


def _decode(phone: Any, ids: Sequence[int]) -> str:
    try:
        return b"".join(piece(phone, token) for token in ids).decode("utf-8", "replace")
    except ValueError as error:
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


_Change = tuple[dict[str, Any], list[str], "Form | None"]


def _scheme(content: dict[str, Any]) -> str | None:
    """Where Metaspace puts a mark before a text: `always`, `first`, `never`; None where it is not used."""
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    if [step["type"] for step in steps] != ["Metaspace"]:
        return None
    plain = steps[0].get("add_prefix_space") is False
    return "never" if plain else str(steps[0].get("prepend_scheme", "always"))


def _without_metaspace(content: dict[str, Any], lead: str) -> _Change:
    """Metaspace written as Llama 2's file has it: a normalizer that puts a mark before the text and for each space."""
    scheme = _scheme(content)
    if scheme is None:
        return content, [], None
    mark = _steps(content["pre_tokenizer"], "pretokenizers")[0].get("replacement", SPACE)
    normalizers = [*_steps(content.get("normalizer"), "normalizers")]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    if scheme == "never" or lead:
        normalizers.append(spaces)
    else:  # a text that begins with a space has its mark: replaced as strings, as regular expressions match anew
        begun = {"type": "Replace", "pattern": {"String": f"{_BEGIN}{mark}"}, "content": mark}
        begin = {"type": "Replace", "pattern": {"String": _BEGIN}, "content": mark}
        normalizers += [{"type": "Prepend", "prepend": _BEGIN}, spaces, begun, begin]
    back = {"type": "Replace", "pattern": {"String": mark}, "content": " "}
    decoders = [back if step["type"] == "Metaspace" else step for step in _steps(content.get("decoder"), "decoders")]
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
    return changed, [said], None


def _bytes_last(content: dict[str, Any]) -> _Change:
    """A byte of a character is no text, and the phone's tokenizer decodes each token by itself, step by step."""
    steps = [step for step in _steps(content.get("decoder"), "decoders") if step["type"] != "Fuse"]
    kinds = [step["type"] for step in steps]
    marked = [
        {"type": "Replace", "pattern": {"String": step.get("replacement", SPACE)}, "content": " "}
        if step["type"] == "Metaspace"
        else step
        for step in steps
    ]
    ordered = sorted(marked, key=lambda step: step["type"] == "ByteFallback")
    if "ByteFallback" not in kinds or ordered == steps:
        return content, [], None
    decoder = {"type": "Sequence", "decoders": [*ordered, {"type": "Fuse"}]}
    return {**content, "decoder": decoder}, ["bytes of a character are put together after all else"], None


def _without_space_tokens(content: dict[str, Any]) -> _Change:
    """The phone's tokenizer takes added tokens out of what it merges, and Android's 1.3 finds none of them."""
    vocabulary = content["model"].get("vocab", {})
    added = content.get("added_tokens") or []
    kept = [t for t in added if t.get("special") or not set(t["content"]) <= _RUNS or t["content"] not in vocabulary]
    if len(kept) == len(added):
        return content, [], None
    said = (
        "tokens of several spaces or lines come from merges, not from the list of added tokens; their ids differ where "
    )
    return {**content, "added_tokens": kept}, [f"{said}{SPACE} itself stands beside a space in a text"], None


def _without_normalizer(content: dict[str, Any]) -> _Change:
    steps = _steps(content.get("normalizer"), "normalizers")
    forms = [step["type"] for step in steps if step["type"] in FORMS]
    if len(forms) != 1 or steps[0]["type"] != forms[0]:  # what comes before it is not the caller's to do
        return content, [], None
    left = steps[1:]
    normalizer = {"type": "Sequence", "normalizers": left} if left else None
    said = f"{forms[0]} is left to the caller: the phone's own is wrong"
    return {**content, "normalizer": normalizer}, [said], cast("Form", forms[0])


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def _short(text: str, longest: int = 70) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
