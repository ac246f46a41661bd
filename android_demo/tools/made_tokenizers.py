"""Tokenizers of kinds of which no published file is at hand, trained on the corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from et_pipeline.checkpoints.tokenizer.corpus import corpus

SPACE = "\u2581"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def made_tokenizers(scratch: Path) -> dict[str, Path]:
    """Files of tokenizers by name."""
    made: dict[str, Callable[[Path], Any]] = {
        "unigram": _unigram,
        "unigram_bytes": _unigram_bytes,
        "word_piece": _word_piece,
        "word_suffix": _word_suffix,
        "prefix_space": _prefix_space,
        "first_word": _first_word,
    }
    paths = {}
    for name, make in made.items():
        paths[name] = scratch / f"{name}.json"
        paths[name].write_text(json.dumps(make(scratch)), encoding="utf-8")
    return paths


def _sentencepiece(scratch: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model of SentencePiece, and the Unigram model that is in it."""
    texts = scratch / "texts.txt"
    texts.write_text("\n".join(line for text in corpus() for line in text.splitlines() if line), encoding="utf-8")
    stem = scratch / "sentencepiece"
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts),
        model_prefix=str(stem),
        vocab_size=2000,
        hard_vocab_limit=False,
        character_coverage=0.98,
        minloglevel=2,
        **options,
    )
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(stem.with_suffix(".model").read_bytes())
    vocabulary = [[piece.piece, piece.score] for piece in proto.pieces]
    fallback = bool(options.get("byte_fallback"))
    return proto, {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": fallback}


def _added(*names: str, **flags: bool) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}
    return [{"id": 0, "content": name, **plain} for name in names]


def _content(**parts: Any) -> dict[str, Any]:
    names = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    return {"version": "1.0", "truncation": None, "padding": None, **{name: parts.get(name) for name in names}}


def _unigram(scratch: Path) -> dict[str, Any]:
    """As T5's: SentencePiece's own table of characters, and a token for what is not known."""
    proto, model = _sentencepiece(scratch)
    table = json.loads(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap).__getstate__())
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    mark = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    end = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    tokens = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
    return _content(
        added_tokens=[*_added("<unk>", "<s>", "</s>"), *_added("<extra_id_0>", rstrip=True)],
        normalizer={"type": "Sequence", "normalizers": [table, spaces]},
        pre_tokenizer=mark,
        post_processor={"type": "TemplateProcessing", "single": end, "pair": end, "special_tokens": tokens},
        decoder=mark,
        model=model,
    )


def _unigram_bytes(scratch: Path) -> dict[str, Any]:
    """With tokens for bytes, and a mark before the first word."""
    _, model = _sentencepiece(scratch, byte_fallback=True, normalization_rule_name="identity")
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return _content(
        added_tokens=[*_added("<unk>", "<s>", "</s>"), *_added("<Größe>", normalized=True, special=False)],
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]},
        pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
        decoder={"type": "Sequence", "decoders": steps},
        model=model,
    )


def _saved(tokenizer: Tokenizer) -> Any:
    return json.loads(tokenizer.to_str())


def _word_piece(_: Path) -> Any:
    """With other steps than BERT's own, for a model that knows many scripts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    steps = [normalizers.Nmt, normalizers.NFKD, normalizers.StripAccents, normalizers.Lowercase, normalizers.Strip]
    tokenizer.normalizer = normalizers.Sequence([step() for step in steps])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.Digits(individual_digits=False),
        ]
    )
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=3000, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _saved(tokenizer)


def _word_suffix(_: Path) -> Any:
    """As CLIP's: the end of a word is part of its last token."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, end_of_word_suffix="</w>", limit_alphabet=500
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return _saved(tokenizer)


def _prefix_space(_: Path) -> Any:
    """As RoBERTa's, with tokens that are matched in normalized texts and as whole words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet))
    tokenizer.decoder = decoders.ByteLevel()
    content = _saved(tokenizer)
    size = len(content["model"]["vocab"])
    content["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["</s>", size],
        "cls": ["<s>", size + 1],
        "trim_offsets": True,
        "add_prefix_space": True,
    }
    content["added_tokens"] = [
        *_added("</s>", "<s>"),
        *_added("<mask>", lstrip=True),
        *_added("Hello", "WORLD", normalized=True, special=False, single_word=True),
        *_added("hell", special=False, rstrip=True),
    ]
    return content


def _first_word(_: Path) -> Any:
    """Words that are cut in several ways, one after the other."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True, continuing_subword_prefix="##"))
    steps = [
        pre_tokenizers.Split(Regex(r"(?<=\p{Ll})(?=\p{Lu})|\b(?=\d)"), "isolated"),
        pre_tokenizers.Split("://", "merged_with_next"),
        pre_tokenizers.Split(
            Regex(r"[\p{Han}&&[^一-三]]{2,3}|(?i:don't)|\p{N}++(?:[.,]\d+)*|[^(\s|[.,!?])]+?x|\d{1,2}(?=(?:\d{3})*\b)"),
            "contiguous",
        ),
        pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, continuing_subword_prefix="##", limit_alphabet=500
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.decoder = decoders.Metaspace()
    return _saved(tokenizer)
