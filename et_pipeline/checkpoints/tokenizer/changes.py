"""Equal forms of a tokenizer.json: each function leaves out or rewrites one thing, and says so in a sentence."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

from et_pipeline.checkpoints.tokenizer.file import FORMS, SPACE, Form, steps_of

_RUNS = {SPACE, "\n", "\t"}
_BEGIN = "\U000f1a2b"  # of private use: no text has it


class Duties(NamedTuple):
    """What a file leaves to the caller, as `normalize` takes it."""

    normalization: Form | None = None
    lstrip: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()

    def with_(self, more: Duties) -> Duties:
        """Both; of two answers to one question `more` has the last word."""
        return Duties(more.normalization or self.normalization, more.lstrip or self.lstrip, more.rstrip or self.rstrip)


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
    empty = [name for name in ("normalizer", "pre_tokenizer") if content.get(name) and not steps_of(content, name)]
    said = [f"its {name} of no steps is left out" for name in empty]
    return {**content, **dict.fromkeys(empty)}, said


def _without_strangers(content: dict[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    added = content.get("added_tokens") or []
    names = [token["content"] for token in added if token["id"] >= vocab_size]
    kept = [token for token in added if token["id"] < vocab_size]
    said = [f"{short(', '.join(names))}, which the model does not have, is text like any other"] if names else []
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


def prepared(content: dict[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    """Leave out what has no part in a conversation with a model of so many tokens."""
    sentences = []
    for change in (
        _without_blocks,
        _without_dropout,
        _without_empty_steps,
        partial(_without_strangers, vocab_size=vocab_size),
        _without_strip,
    ):
        content, said = change(content)
        sentences += said
    return content, sentences


_Change = tuple[dict[str, Any], list[str], Duties]


def scheme_of(content: dict[str, Any]) -> str | None:
    """Where Metaspace puts a mark before a text: `always`, `first`, `never`; None where it is not used."""
    steps = steps_of(content, "pre_tokenizer")
    if [step["type"] for step in steps] != ["Metaspace"]:
        return None
    plain = steps[0].get("add_prefix_space") is False
    return "never" if plain else str(steps[0].get("prepend_scheme", "always"))


def without_metaspace(content: dict[str, Any], lead: str) -> _Change:
    """Metaspace written as Llama 2's file has it: a normalizer that puts a mark before the text and for each space."""
    scheme = scheme_of(content)
    if scheme is None:
        return content, [], Duties()
    mark = steps_of(content, "pre_tokenizer")[0].get("replacement", SPACE)
    normalizers = [*steps_of(content, "normalizer")]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    if scheme == "never" or lead:
        normalizers.append(spaces)
    else:  # a text that begins with a space has its mark: replaced as strings, as regular expressions match anew
        begun = {"type": "Replace", "pattern": {"String": f"{_BEGIN}{mark}"}, "content": mark}
        begin = {"type": "Replace", "pattern": {"String": _BEGIN}, "content": mark}
        normalizers += [{"type": "Prepend", "prepend": _BEGIN}, spaces, begun, begin]
    back = {"type": "Replace", "pattern": {"String": mark}, "content": " "}
    decoders = [back if step["type"] == "Metaspace" else step for step in steps_of(content, "decoder")]
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
    return changed, [said], Duties()


def bytes_last(content: dict[str, Any]) -> _Change:
    """A byte of a character is no text, and the phone's tokenizer decodes each token by itself, step by step."""
    steps = [step for step in steps_of(content, "decoder") if step["type"] != "Fuse"]
    kinds = [step["type"] for step in steps]
    marked = [
        {"type": "Replace", "pattern": {"String": step.get("replacement", SPACE)}, "content": " "}
        if step["type"] == "Metaspace"
        else step
        for step in steps
    ]
    ordered = sorted(marked, key=lambda step: step["type"] == "ByteFallback")
    if "ByteFallback" not in kinds or ordered == steps:
        return content, [], Duties()
    decoder = {"type": "Sequence", "decoders": [*ordered, {"type": "Fuse"}]}
    return {**content, "decoder": decoder}, ["bytes of a character are put together after all else"], Duties()


def without_space_tokens(content: dict[str, Any]) -> _Change:
    """The phone's tokenizer takes added tokens out of what it merges, and Android's 1.3 finds none of them."""
    vocabulary = content["model"].get("vocab", {})
    added = content.get("added_tokens") or []
    kept = [t for t in added if t.get("special") or not set(t["content"]) <= _RUNS or t["content"] not in vocabulary]
    if len(kept) == len(added):
        return content, [], Duties()
    said = (
        "tokens of several spaces or lines come from merges, not from the list of added tokens; their ids differ where "
    )
    return {**content, "added_tokens": kept}, [f"{said}{SPACE} itself stands beside a space in a text"], Duties()


def without_normalizer(content: dict[str, Any]) -> _Change:
    """Leave the Unicode form to the caller: the phone's tokenizer makes it wrongly."""
    steps = steps_of(content, "normalizer")
    forms = [step["type"] for step in steps if step["type"] in FORMS]
    if len(forms) != 1 or steps[0]["type"] != forms[0]:  # what comes before it is not the caller's to do
        return content, [], Duties()
    left = steps[1:]
    normalizer = {"type": "Sequence", "normalizers": left} if left else None
    said = f"{forms[0]} is left to the caller: the phone's own is wrong"
    return {**content, "normalizer": normalizer}, [said], Duties(cast("Form", forms[0]))


def without_white_space(content: dict[str, Any]) -> _Change:
    """The phone's tokenizer keeps the white space that an added token takes with it."""
    left, right = (
        tuple(token["content"] for token in content["added_tokens"] if token.get(side) and token["content"])
        for side in ("lstrip", "rstrip")
    )
    said = [
        f"white space {where} {short(', '.join(tokens))} is left out by the caller"
        for where, tokens in (("before", left), ("behind", right))
        if tokens
    ]
    return content, said, Duties(None, left, right)


def short(text: str, longest: int = 70) -> str:
    """A text as a message shows it."""
    text = text.replace("\n", "\\n")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
