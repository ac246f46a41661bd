"""Whether transformers' AutoTokenizer reads a checkpoint's tokenizer as tokenizer.json alone says, which phones have.

Its classes, tokenizer_config.json, special_tokens_map.json and added_tokens.json change what tokenizer.json says: they
add tokens, lowercase or keep letters, put a space before a text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from et_pipeline.chat_template import ChatFormat
from et_pipeline.checkpoints.config import reason
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.tokenizer.corpus import conversations, corpus
from et_pipeline.checkpoints.tokenizer.file import FILE, SPACE
from et_pipeline.errors import UserError

LONGEST = 300  # characters
_OTHERS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_ANEW = (
    "save the tokenizer anew (AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers), and see "
    f"that {FILE} has what it is to have"
)


def check(checkpoint: Folder, chat: ChatFormat, embeds: bool) -> list[str]:
    """Compare the two.

    Of a model that answers, words are compared where nothing special and no space is before them, and of whole
    conversations the special tokens: transformers 5 marks the space at a text's begin and behind a special token in
    its own way for Llama 2's kind, and not as SentencePiece does.

    Args:
        checkpoint: it, with both.
        chat: the compiled chat template.
        embeds: it is an encoder, whose texts come with special tokens around.

    Returns:
        A sentence if AutoTokenizer does not load the folder.

    Raises:
        UserError: they differ.
    """
    from transformers import AutoTokenizer

    folder, tokenizer = checkpoint.path, checkpoint.tokenizer
    if not any((folder / name).is_file() for name in _OTHERS):
        return []
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    try:
        auto = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        return [f"{folder}: its tokenizer is not compared with AutoTokenizer, which does not load it: {reason(error)}"]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    added |= {token.content for token in auto.added_tokens_decoder.values()}
    for text in corpus():
        plain = (text[:1].strip() and SPACE not in text) or embeds
        if plain and len(text) <= LONGEST and not any(token in text for token in added):
            _compare(
                folder, auto, text, _ids(auto, text, embeds), tokenizer.encode(text, add_special_tokens=embeds).ids
            )
    for text in [] if embeds or chat.is_plain else conversations(chat):
        special = set(auto.added_tokens_decoder)
        pair = _ids(auto, text, False), tokenizer.encode(text, add_special_tokens=False).ids
        theirs, ours = ([token for token in ids if token in special] for ids in pair)
        _compare(folder, auto, text, theirs, ours)
    _check_chat(folder, auto, chat)
    return []


def _ids(auto: Any, text: str, around: bool) -> list[int]:
    found: list[int] = auto.encode(text, add_special_tokens=around)
    return found


def _compare(folder: Path, auto: Any, text: str, theirs: Sequence[int], ours: Sequence[int]) -> None:
    if theirs != ours:
        raise UserError(
            f"{folder}: of {text[:60]!r} AutoTokenizer ({type(auto).__name__}) makes {str(theirs)[:60]}, and {FILE} by "
            f"itself {str(ours)[:60]}, as phones would; {_ANEW}"
        )


def _check_chat(folder: Path, auto: Any, chat: ChatFormat) -> None:
    """The special tokens that a template writes, such as bos_token, come from several files."""
    if chat.is_plain or auto.chat_template is None:
        return
    messages = [{"role": "user", "content": "Hello"}]
    theirs = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ours = chat.render(messages)
    if theirs != ours:
        raise UserError(
            f"{folder}: its chat template gives {theirs[:80]!r} with AutoTokenizer's special tokens, and {ours[:80]!r} "
            f"with those of tokenizer_config.json; {_ANEW}"
        )
