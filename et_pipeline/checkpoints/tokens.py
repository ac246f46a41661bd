"""The tokens that mean something to a model, as tokenizer.json, the configs and the chat template name them."""

from __future__ import annotations

import re
from typing import NamedTuple

from et_pipeline.chat_template import ChatFormat, stop_token
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.config import token_ids
from et_pipeline.checkpoints.folder import GENERATION, TOKENS, Folder
from et_pipeline.checkpoints.tokenizer.file import FILE as TOKENIZER
from et_pipeline.errors import UserError

_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, which no tokenizer takes
_MATCHING = ("lstrip", "rstrip", "single_word", "normalized")


class Tokens(NamedTuple):
    """Those of `Facts` that are about tokens."""

    bos_id: int | None
    bos_token: str | None
    eos_ids: tuple[int, ...]
    adds_bos: bool
    special_tokens: tuple[str, ...]


def read_tokens(folder: Folder, chat: ChatFormat, answers: bool) -> Tokens:
    """Read and check the tokens that a checkpoint's files name.

    Args:
        folder: the checkpoint.
        chat: the compiled chat template.
        answers: the model generates text, so that a token has to end it.

    Raises:
        UserError: a file is broken, or does not fit the others.
    """
    config, tokenizer = folder.config, folder.tokenizer
    text = config.get("text_config", config)
    vocab_size = text["vocab_size"]
    _check_ids(folder, vocab_size)
    _check_added(folder)
    named = _named_tokens(folder)
    bos_id = tokenizer.token_to_id(named["bos_token"]) if "bos_token" in named else text.get("bos_token_id")
    if bos_id is not None:
        token_ids(bos_id, f"{folder.path / TOKENS} has bos_token", vocab_size)
    _check_chat(folder, chat, vocab_size)
    specials = [t.content for _, t in sorted(tokenizer.get_added_tokens_decoder().items()) if t.special]
    named["stop"] = stop_token(chat, specials)
    return Tokens(
        bos_id=bos_id,
        bos_token=None if bos_id is None else tokenizer.id_to_token(bos_id),
        eos_ids=_eos_ids(folder, named, vocab_size) if answers else (),
        adds_bos=bos_id is not None and tokenizer.encode("a").ids[:1] == [bos_id],
        special_tokens=tuple(specials),
    )


def _check_ids(folder: Folder, vocab_size: int) -> None:
    highest = max(folder.tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if highest >= vocab_size:
        raise UserError(
            f"{folder.path / TOKENIZER} has token id {highest}, but the model's vocab_size is {vocab_size}; "
            "the tokenizer belongs to another model"
        )


def _check_chat(folder: Folder, chat: ChatFormat, vocab_size: int) -> None:
    """A token that the model does not have is no fault as long as no conversation begins or ends with it."""
    roles = ("system", "user") if chat.supports_system else ("user",)
    said = chat.render([{"role": role, "content": "a"} for role in roles])
    encoding = folder.tokenizer.encode(said, add_special_tokens=False)
    for token, text in zip(encoding.ids, encoding.tokens, strict=True):
        if token >= vocab_size:
            raise UserError(
                f"{folder.path / TOKENIZER} gives {text!r} of the chat template the id {token}, but the model's "
                f"vocab_size is {vocab_size}; the tokenizer belongs to another model"
            )


def _named_tokens(folder: Folder) -> dict[str, str | None]:
    """The texts of the tokens with a meaning of their own that tokenizer_config.json names."""
    found: dict[str, str | None] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = folder.tokenizer_config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and (not isinstance(text, str) or _SURROGATES.search(text)):
            raise UserError(f"{folder.path / TOKENS} has {name}={value!r}, expected a text")
        if text is not None:
            found[name] = text
    return found


def _check_added(folder: Folder) -> None:
    """Transformers lets tokenizer_config.json change the tokens of tokenizer.json, and phones read the latter only."""
    path = folder.path / TOKENS
    listed = folder.tokenizer_config.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict) or not all(isinstance(token, dict) for token in listed.values()):
        raise UserError(f"{path} has an added_tokens_decoder that is no object of tokens")
    known = folder.tokenizer.get_added_tokens_decoder()
    for number, token in listed.items():
        own = known.get(int(number)) if re.fullmatch("[0-9]{1,9}", str(number)) else None
        if own is None or own.content != token.get("content"):
            fault = f"{token.get('content')!r} is token {number}"
        else:
            fault = next(
                (
                    f"{token['content']!r} has {k}={token[k]}"
                    for k in _MATCHING
                    if token.get(k, ...) not in (..., getattr(own, k))
                ),
                "",
            )
        if fault:
            raise UserError(
                f"{path} says that {fault}, and {TOKENIZER} does not; save the tokenizer anew "
                "(AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers)"
            )


def _eos_ids(folder: Folder, named: dict[str, str | None], vocab_size: int) -> tuple[int, ...]:
    """What the configuration lists, and the token that ends an answer in the chat template, which lists often lack."""
    config = folder.config
    listed = ((GENERATION, folder.generation), (CONFIG, config.get("text_config", config)), (CONFIG, config))
    ids: list[int] = []
    for file, values in listed:
        ids = ids or token_ids(values.get("eos_token_id"), f"{folder.path / file} has eos_token_id", vocab_size)
    for name in (named["stop"], None if ids else named.get("eos_token")):
        token = folder.tokenizer.token_to_id(name) if name is not None else None
        if token is not None and token not in ids:
            ids += token_ids(token, f"{folder.path / TOKENIZER} has {name!r}, which ends an answer,", vocab_size)
    if not ids:
        raise UserError(
            f"{folder.path} names no token that ends an answer; set eos_token_id in {GENERATION} or {CONFIG}"
        )
    return tuple(ids)
