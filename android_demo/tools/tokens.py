"""What `tokenizers` makes of the corpus and of texts drawn by lot, for the test of the app's own tokenizer.

For each tokenizer, as it was published and as a bundle ships it: its file, and ids and streamed texts in `*.expected`,
one JSON document a line. Run with the project's own Python: `python tools/tokens.py OUT`.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import parity
import real
from made_tokenizers import made_tokenizers
from tokenizers import Regex, Tokenizer, pre_tokenizers

from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.checkpoints.tokenizer import mend
from et_pipeline.checkpoints.tokenizer.corpus import corpus
from et_pipeline.checkpoints.tokenizer.file import save

DRAWN = 2000
SWEPT = 128  # characters in a text
STREAMED = 4  # of so many texts one is said again
FRAMED = 20
DRAWN_STREAMS = 200
LONGEST_STREAM = 200  # tokens
LONGEST_WORD = 5000
SPREAD = {"Lo": 5}  # of so many characters of a category one: there are many ideographs
PIECES = (
    *("\r", "\n", "\r\n", "\r\r\n", "\t", " ", "  ", " " * 17, " " * 200, "\u00a0", "\u3000", "\u2028", "\x85"),
    *("\x00", "\x01", "\x07", "\x1b", "\x1c", "\x7f", "\u200b", "\u200d", "\u200c", "\ufeff", "\ufffd", "\u00ad"),
    *("'s", "'S", "'\u017f", "'ll", "'LL", "'Re", "\u2019t", "'", "''", "K", "\u212a", "\u0130", "\u0131", "\u1e9e"),
    *("0", "7", "12", "123", "1234567", "\u0663\u0664", "\u0967\u0968\u0969", "\uff11\uff12", "\u00b2", "\u2167"),
    *("\u00bd", "\u4e09", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f468\U0001f3fd\u200d\U0001f52c"),
    *("\u2764\ufe0f", "\U0001f1e9\U0001f1ea", "e\u0301", "\u00e9", "o\u0308\u0323", "\u1100\u1161\u11a8", "\uac01"),
    *("\u212b", "\ufb01", "\u01c4", "\u0958", "\u2581", "\u2581\u2581", "\u0120", "\u010a", "\uff5c", "\u061c"),
    *("<", "<|", "|>", "<|im_", "<|im_end|", "<s", "</s", "<0x", "<0x41>", "<unused", "[UN", "[MASK", "##", "</s>"),
    *("<start_of_turn>", "<|eot_id|>", "<|endoftext|>", "[SEP]", "<mask>", "hello", "Hello", "HELLO", "world"),
    *("don't", "!", "!!!", "...", "?!", "://", "a/b", "(x)", "$", "\u20ac", "\u00a1", "\u3002", "\u104a", "_", "--"),
)
BLOCKS = (
    *((0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4), (0x600, 0x6FF)),
    *((0x900, 0x97F), (0x980, 0x9FE), (0xB80, 0xBFA), (0xE01, 0xE5B), (0x1000, 0x109F), (0x10A0, 0x10FF)),
    *((0x1200, 0x137C), (0x1780, 0x17F9), (0x1E00, 0x1EFF), (0x2010, 0x2BFF), (0x3041, 0x30FF), (0x4E00, 0x9FA5)),
    *((0xAC00, 0xD7A3), (0xFB00, 0xFB4F), (0xFE70, 0xFEFC), (0xFF01, 0xFFEE), (0x10330, 0x1034A), (0x1D400, 0x1D7FF)),
    *((0x1F300, 0x1F6D7), (0x1F900, 0x1F9FF), (0x20000, 0x2A6D6), (0x300, 0x36F), (0x1AB0, 0x1ABE), (0x20D0, 0x20F0)),
)


MARKED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&"
    rf"[^\p{{Han}}]]+{MARKED}?"
)
REGEXES = (  # of more published tokenizers, and what else of the language they may have
    MARKED + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    MARKED + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|" + CASED + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    *(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7fb]+"),
    *(r"[0-9][0-9][0-9]", r"\d{1,3}(?=(?:\d{3})*\b)", r"(?:\r?\n)+", r"[^\S\r\n]+", r"(?<!\d)\d{1,3}", r"\p{^L}+"),
    *(
        r"[^\W\d_]+",
        r"\w",
        r"\W",
        r"[\w]+",
        r"\b\S",
        r"\w+(?:['-]\w+)*",
        r"^.+$",
        r"(?i)h[ae]l*",
        r"\B.",
        r"\A\s|\S\z",
        r"(?>\s+)x?",
        r"[^a]??b",
    ),
    *(r"\P{L}{2,}", r"(?:ab?)*c|(\s\S)+", r"[\x41-\x5a\u00c4]+?[a-z]", r"(?=\p{Lu})", r"\s{3}"),
)
LONG_WORDS = ("a", "ab", "xyzw", "é", "я", "漢字", "e\u0301", "1", " ", "=", "\n", "A", "\U0001f600")


def is_assigned(char: int) -> bool:
    """Whether Unicode has the character, and a text may."""
    return unicodedata.category(chr(char)) not in ("Cn", "Cs")


def swept() -> Iterator[str]:
    """Texts in which every character is, of the many ideographs some."""
    seen: dict[str, int] = {}
    chosen = []
    for char in filter(is_assigned, range(0x110000)):
        category = unicodedata.category(chr(char))
        seen[category] = seen.get(category, 0) + 1
        if category != "Co" and (char < 0x3000 or seen[category] % SPREAD.get(category, 1) == 0):
            chosen.append(chr(char))
    for start in range(0, len(chosen), SWEPT):
        yield "a".join(chosen[start : start + SWEPT])
        yield "".join(chosen[start : start + SWEPT])


def drawn(lot: random.Random, own: Sequence[str]) -> str:
    """A text of anything."""

    def word() -> str:
        first, last = lot.choice(BLOCKS)
        chars = (chr(lot.randint(first, last)) for _ in range(lot.randint(1, 9)))
        return "".join(char for char in chars if is_assigned(ord(char)))

    def part() -> str:
        kind = lot.random()
        if kind < 0.35:
            return lot.choice(PIECES)
        if kind < 0.75:
            return word()
        if kind < 0.85 and own:
            text = lot.choice(own)
            return text if lot.random() < 0.6 else text[: lot.randint(1, len(text))]
        return " "

    if lot.random() < 0.01:
        letters = lot.choice(LONG_WORDS)
        return "".join(lot.choice(letters) for _ in range(LONGEST_WORD))
    return "".join(part() for _ in range(lot.randint(1, 14)))


def own_texts(content: dict[str, Any]) -> list[str]:
    """Texts of a tokenizer's added tokens."""
    return [token["content"] for token in content["added_tokens"]][:400]


def texts_of(path: Path, content: dict[str, Any]) -> list[str]:
    """All texts that a tokenizer is compared on."""
    lot = random.Random(path.name + str(len(content["model"]["vocab"])))
    own = own_texts(content)
    texts = [*corpus(), *own[::5], *swept(), *(drawn(lot, own) for _ in range(DRAWN))]
    return list(dict.fromkeys(texts))


def said(tokenizer: Tokenizer, anchor: int, ids: Sequence[int]) -> str:
    """What tokens add to a text that has begun."""
    begun = tokenizer.decode([anchor], skip_special_tokens=False)
    whole = tokenizer.decode([anchor, *ids], skip_special_tokens=False)
    assert whole.startswith(begun)
    return whole[len(begun) :]


def can_stream(tokenizer: Tokenizer, anchor: int, ids: Sequence[int]) -> bool:
    """Whether decoding never takes back what it said; it does when bytes after a whole character are wrong."""
    whole = said(tokenizer, anchor, ids)
    if "\ufffd" not in whole:
        return True
    return all(whole.startswith(said(tokenizer, anchor, ids[:end]).rstrip("\ufffd")) for end in range(len(ids)))


def expected(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A document for each text, and for each row of tokens drawn by lot."""
    tokenizer.no_truncation()  # as transformers does, which tells a tokenizer each time
    tokenizer.no_padding()
    anchor = tokenizer.encode("x", add_special_tokens=False).ids[-1]
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for at, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        document = {"text": text, "ids": encoding.ids}
        if at % STREAMED == 0 and len(encoding.ids) <= LONGEST_STREAM and can_stream(tokenizer, anchor, encoding.ids):
            document["said"] = said(tokenizer, anchor, encoding.ids)
        if at % FRAMED == 0:
            document["framed"] = tokenizer.encode(text).ids
        yield document
    lot = random.Random(0)
    vocabulary = list(tokenizer.get_vocab().values())
    bytes_ = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    for _ in range(DRAWN_STREAMS):
        choices = [token for token in bytes_ if token is not None] if lot.random() < 0.5 else []
        length = lot.randint(1, 24)
        ids = [lot.choice(choices if choices and lot.random() < 0.7 else vocabulary) for _ in range(length)]
        if can_stream(tokenizer, anchor, ids):
            yield {"ids": ids, "said": said(tokenizer, anchor, ids)}


def write(path: Path, texts: Sequence[str], out: Path) -> None:
    """A tokenizer's file and what is expected of it."""
    shutil.copy(path, out)
    tokenizer = Tokenizer.from_file(str(path))
    added = {str(token): spec.special for token, spec in tokenizer.get_added_tokens_decoder().items()}
    with out.with_suffix(".expected").open("w", encoding="utf-8") as stream:
        stream.write(json.dumps({"size": max(tokenizer.get_vocab().values()) + 1, "special": added}) + "\n")
        for document in expected(tokenizer, texts):
            stream.write(json.dumps(document) + "\n")


def write_patterns(out: Path) -> None:
    """How Oniguruma cuts texts with regular expressions."""
    lot = random.Random(1)
    texts = list(dict.fromkeys([*corpus()[::3], *(drawn(lot, []) for _ in range(DRAWN // 10))]))
    with out.open("w", encoding="utf-8") as stream:
        for source in REGEXES:
            split = pre_tokenizers.Split(Regex(source), "isolated")
            pieces = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in texts]
            stream.write(json.dumps({"regex": source, "texts": pieces}) + "\n")


def mended(path: Path, scratch: Path, made: Path) -> Path:
    """A tokenizer as a bundle ships it; `parity.py` may have made it before."""
    if made.is_file():
        return made
    chat = load_chat_format(Folder(path.parent))
    size = Tokenizer.from_file(str(path)).get_vocab_size()
    file = scratch / "mended.json"
    save(mend(path, size, scratch, chat).content, file)
    return file


def main(out: Path, names: Sequence[str]) -> None:
    """For each tokenizer a file and what is expected of it, of those that bundles may have also as they are shipped."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_patterns(out / "patterns.expected")
    with tempfile.TemporaryDirectory() as scratch:
        shipped = parity.originals(Path(scratch) / "white_space")
        others = {name: real.tokenizer(name) / "tokenizer.json" for name in real.MORE_TOKENIZERS}
        others |= {"minilm": real.minilm(), **made_tokenizers(Path(scratch))}
        for name, path in (shipped | others).items():
            if names and name not in names:
                continue
            texts = texts_of(path, json.loads(path.read_text(encoding="utf-8")))
            write(path, texts, out / f"{name}.json")
            if name in shipped:
                write(
                    mended(path, Path(scratch), out.parent / name / "tokenizer.json"),
                    texts,
                    out / f"{name}.mended.json",
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
