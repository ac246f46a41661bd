"""Writes the tokenizer of a GGUF file's metadata, and which tokens end an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.gguf.header import value_of
from et_pipeline.checkpoints.tokenizer.file import SPACE
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer

# How text is cut before byte pairs are merged, in llama.cpp's words. transformers has a table of regular expressions,
# and takes GPT-2's for every other word; these are the words for which that is right, or right after digits are cut.
_GPT2_SPLITS = (None, "default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2")
_BOS_SPLITS = ("llama3", "llama-v3", "llama-bpe")  # that begin a text with BOS where the file does not say
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")


def write_tokenizer(path: Path, reader: GGUFReader, out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json and, if the licence is known, README.md."""
    from tokenizers import Tokenizer, processors
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    if value_of(reader, "tokenizer.ggml.model") is None:
        raise UserError(f"{path} holds no tokenizer")
    architecture, vocabulary, config = get_gguf_tokenizer(str(path))
    converted, _ = convert_gguf_tokenizer(architecture, vocabulary)
    # GPT-2's class adds GPT-2's own special token, which this vocabulary may not have.
    content = json.loads(converted.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < len(vocabulary["tokens"])]
    if vocabulary["tokenizer_type"] == "llama":
        content |= _sentencepiece(value_of(reader, "tokenizer.ggml.add_space_prefix") is not False)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    adds = value_of(reader, "tokenizer.ggml.add_bos_token")
    if adds is None:  # llama.cpp's own choice
        adds = vocabulary["tokenizer_type"] == "llama" or vocabulary.get("pre_tokenizer_type") in _BOS_SPLITS
    before = config.get("bos_token") if adds else None
    if before is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before}:0 $A:0", special_tokens=[(before, tokenizer.token_to_id(before))]
        )
    if vocabulary["tokenizer_type"] == "gpt2":
        _set_split(path, tokenizer, vocabulary.get("pre_tokenizer_type"))
    tokenizer.save(str(out / "tokenizer.json"))
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")}
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in named.items() if v is not None}}
    (out / "tokenizer_config.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    ends = [value_of(reader, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ids = {"bos_token_id": value_of(reader, "tokenizer.ggml.bos_token_id"), "eos_token_id": _distinct(ends)}
    generation = {name: value for name, value in ids.items() if value not in (None, [])}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    licence = value_of(reader, "general.license")
    if licence:
        (out / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")


def _sentencepiece(prefix: bool) -> dict[str, Any]:
    """How SentencePiece marks spaces, as Llama 2's own tokenizer.json and llama.cpp do it.

    Args:
        prefix: whether a mark stands before a text, and before each that follows a special token.
    """
    marks: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    back: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    back += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        marks.insert(0, {"type": "Prepend", "prepend": SPACE})
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": marks},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
    }


def _set_split(path: Path, tokenizer: Tokenizer, split: str | None) -> None:
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if split in _DIGIT_SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split not in (*_GPT2_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise UserError(
            f"{path} splits text in the way {split!r} (tokenizer.ggml.pre), which cannot be converted; "
            "point model.source at its original checkpoint"
        )


def _distinct(ids: list[int | None]) -> list[int]:
    return list(dict.fromkeys(token for token in ids if token is not None))
