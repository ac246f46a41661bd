"""A tokenizer.json, its parts, and what is left to do for who reads it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

FILE = "tokenizer.json"
SPACE = "▁"  # SentencePiece's mark
# Of a tokenizer.json, and what their sequences call the steps.
PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
# Unicode's White_Space, as Hugging Face's tokenizers take it: neither Python's strip nor Kotlin's trim means just this.
WHITE_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def normalize(text: str, form: Form | None, lstrip: Sequence[str] = (), rstrip: Sequence[str] = ()) -> str:
    """Do what a mended tokenizer's file leaves to the caller."""
    for token in lstrip:
        *parts, last = text.split(token)
        text = token.join([*(part.rstrip(WHITE_SPACE) for part in parts), last])
    for token in rstrip:
        first, *parts = text.split(token)
        text = token.join([first, *(part.lstrip(WHITE_SPACE) for part in parts)])
    return text if form is None else unicodedata.normalize(form, text)


def save(content: dict[str, Any], path: Path) -> None:
    """Write a tokenizer.json."""
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def steps_of(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The steps of a part; of none it has none."""
    part = content.get(name)
    if part is None:
        return []
    return list(part[PARTS[name]]) if part["type"] == "Sequence" else [part]
