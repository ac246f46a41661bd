"""What a checkpoint's small files say about the model: read without torch, checked before anything heavy starts."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from et_pipeline import manifest
from et_pipeline.architecture import ENCODERS, UNUSED_BY_ENCODERS, layer_windows, longest_context
from et_pipeline.chat_template import ChatFormat, stop_token
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.config import one_sentence, read_config, read_json, token_ids
from et_pipeline.checkpoints.template import load_chat_format
from et_pipeline.checkpoints.tokenizer.file import FILE as TOKENIZER
from et_pipeline.checkpoints.tokenizer.file import Form
from et_pipeline.errors import UserError
from et_pipeline.models.pooling import Pooling, check_case, read_max_tokens, read_pooling

FILE = "facts.json"
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, which no tokenizer takes
_MATCHING = ("lstrip", "rstrip", "single_word", "normalized")
# What transformers' generate() does besides temperature, top_p and top_k, and the value with which it does nothing.
_ANSWERS = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_p": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "num_beams": 1,
    "guidance_scale": 1,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "sequence_bias": None,
    "stop_strings": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_eos_token_id": None,
    "penalty_alpha": 0,
}


class Facts(BaseModel):
    """A checkpoint in brief.

    Attributes:
        family: `model_type` of config.json.
        parameters: count over all tensors of the checkpoint that the task needs; tied ones once.
        stored: in words how the checkpoint's weights are quantized already; None for floats.
        windows: per layer, how many tokens it sees; None for all.
        hidden_size: numbers per token between layers, and in an embedding.
        max_position: the longest context; of an encoder the longest text, special tokens included.
        tied_head: the checkpoint has no head of its own.
        bos_token: the text of `bos_id`.
        eos_ids: tokens that end an answer.
        adds_bos: the tokenizer puts BOS before plain text.
        special_tokens: texts that are never shown.
        chat: the compiled chat template.
        pooling: how an encoder makes an embedding of a text; None for a model that answers.
        normalization: what is done to each text before the bundle's tokenizer gets it.
        lstrip: tokens before which white space is left out then.
        rstrip: tokens behind which it is.
        parity: of that tokenizer with the original's; None before it was compared, and of an encoder.
        sampling: temperature, top_p and top_k of generation_config.json; empty if it asks for greedy answers.
    """

    model_config = ConfigDict(frozen=True)

    family: str
    architecture: str
    parameters: int
    layers: int
    windows: tuple[int | None, ...]
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_position: int
    tied_head: bool
    bos_id: int | None
    bos_token: str | None = None
    eos_ids: tuple[int, ...]
    adds_bos: bool
    special_tokens: tuple[str, ...]
    chat: ChatFormat
    pooling: Pooling | None = None
    sampling: dict[str, float | int]
    licence: str | None
    stored: str | None = None
    normalization: Form | None = None
    lstrip: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()
    parity: manifest.TokenizerParity | None = None

    def write(self, folder: Path) -> None:
        """Write `facts.json` into a folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=2))

    @property
    def fed_bos_id(self) -> int | None:
        """The begin-of-text token where callers put it before a conversation: a chat template has it already."""
        return self.bos_id if self.chat.is_plain and self.adds_bos else None

    def manifest_tokenizer(self) -> manifest.Tokenizer:
        """The tokenizer as the manifest describes it."""
        return manifest.Tokenizer(
            file=TOKENIZER,
            bos_id=self.bos_id,
            bos_token=self.bos_token,
            eos_ids=list(self.eos_ids),
            adds_bos=self.adds_bos,
            special_tokens=list(self.special_tokens),
            normalization=self.normalization,
            lstrip=list(self.lstrip),
            rstrip=list(self.rstrip),
            parity=self.parity,
        )

    def manifest_chat(self, system_prompt: str | None) -> manifest.Chat:
        """The chat as the manifest describes it."""
        return manifest.Chat(
            segments=self.chat,
            add_bos=self.fed_bos_id is not None,
            sampling=manifest.Sampling.model_validate(self.sampling),
            system_prompt=system_prompt,
        )

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Read `facts.json` from a folder."""
        return cls.model_validate_json((folder / FILE).read_text())


def read_facts(folder: Path) -> Facts:
    """Read and check config.json, the tokenizer, the chat template and the safetensors headers of a checkpoint.

    Raises:
        UserError: a file is missing, broken, or does not fit the others.
    """
    config = read_config(folder)
    text = config.get("text_config", config)
    generation = read_json(folder / "generation_config.json")
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    encodes = text.get("model_type") in ENCODERS
    if encodes and text.get("is_decoder"):
        raise UserError(f"{folder / 'config.json'} has is_decoder=true: a decoder of this family is not supported")
    contents = prequantized.find(folder, config)
    layout = contents.layout
    tokenizer = read_tokenizer(folder)
    pooling, longest = None, None
    if encodes:
        layout = {name: info for name, info in layout.items() if not UNUSED_BY_ENCODERS.search(name)}
        check_case(folder, json.loads(tokenizer.to_str())["normalizer"])
        pooling, longest = read_pooling(folder), read_max_tokens(folder)
    shape = _shape(folder, config)
    vocab_size = shape["vocab_size"]
    _check_ids(folder, tokenizer, vocab_size)
    _check_added(folder, tokenizer, tokenizer_config)
    named = _named_tokens(folder, tokenizer_config)
    bos_id = tokenizer.token_to_id(named["bos_token"]) if "bos_token" in named else text.get("bos_token_id")
    if bos_id is not None:
        token_ids(bos_id, f"{folder / 'tokenizer_config.json'} has bos_token", vocab_size)
    chat = load_chat_format(folder)
    _check_chat(folder, chat, tokenizer, vocab_size)
    specials = [t.content for _, t in sorted(tokenizer.get_added_tokens_decoder().items()) if t.special]
    stop = stop_token(chat, specials)
    return Facts(
        family=str(config.get("model_type", "")),
        architecture=_architecture(config),
        parameters=sum(math.prod(info.shape) for info in layout.values()),
        **{**shape, "max_position": min(shape["max_position"], longest or sys.maxsize)},
        tied_head="lm_head.weight" not in layout,
        bos_id=bos_id,
        bos_token=None if bos_id is None else tokenizer.id_to_token(bos_id),
        eos_ids=() if encodes else _eos_ids(folder, (generation, text, config), named, stop, tokenizer, vocab_size),
        adds_bos=bos_id is not None and tokenizer.encode("a").ids[:1] == [bos_id],
        special_tokens=tuple(specials),
        chat=chat,
        pooling=pooling,
        sampling=_sampling(folder, generation),
        licence=_licence(folder),
        stored=contents.form,
    )


def read_tokenizer(folder: Path) -> Any:
    """Load `tokenizer.json` as a `tokenizers.Tokenizer`.

    Raises:
        UserError: it is missing or broken.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.is_file():
        raise UserError(
            f"{path} is missing; the phone needs the fast tokenizer that transformers saves under that name"
        )
    with one_sentence(f"{path} is not a readable tokenizer"):
        return Tokenizer.from_file(str(path))


def _shape(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Those of `Facts` that config.json alone says."""
    text = config.get("text_config", config)

    def number(name: str) -> int:
        value = text.get(name)
        if not isinstance(value, int) or value <= 0:
            raise UserError(f"{folder / 'config.json'} has {name}={value!r}, expected a positive integer")
        return value

    heads, layers = number("num_attention_heads"), number("num_hidden_layers")
    return {
        "layers": layers,
        "windows": layer_windows(config, layers),
        "kv_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or number("hidden_size") // heads,
        "hidden_size": number("hidden_size"),
        "vocab_size": number("vocab_size"),
        "max_position": longest_context(config) or number("max_position_embeddings"),
    }


def _check_ids(folder: Path, tokenizer: Any, vocab_size: int) -> None:
    highest = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if highest >= vocab_size:
        raise UserError(
            f"{folder / 'tokenizer.json'} has token id {highest}, but the model's vocab_size is {vocab_size}; "
            "the tokenizer belongs to another model"
        )


def _check_chat(folder: Path, chat: ChatFormat, tokenizer: Any, vocab_size: int) -> None:
    """A token that the model does not have is no fault as long as no conversation begins or ends with it."""
    roles = ("system", "user") if chat.supports_system else ("user",)
    said = chat.render([{"role": role, "content": "a"} for role in roles])
    encoding = tokenizer.encode(said, add_special_tokens=False)
    for token, text in zip(encoding.ids, encoding.tokens, strict=True):
        if token >= vocab_size:
            raise UserError(
                f"{folder / TOKENIZER} gives {text!r} of the chat template the id {token}, but the model's vocab_size "
                f"is {vocab_size}; the tokenizer belongs to another model"
            )


def _architecture(config: dict[str, Any]) -> str:
    """The class that transformers loads the checkpoint with; only shown."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def _named_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """The texts of the tokens with a meaning of their own that tokenizer_config.json names."""
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and (not isinstance(text, str) or _SURROGATES.search(text)):
            raise UserError(f"{folder / 'tokenizer_config.json'} has {name}={value!r}, expected a text")
        if text is not None:
            found[name] = text
    return found


def _check_added(folder: Path, tokenizer: Any, config: dict[str, Any]) -> None:
    """Transformers lets tokenizer_config.json change the tokens of tokenizer.json, and phones read the latter only."""
    path = folder / "tokenizer_config.json"
    listed = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict) or not all(isinstance(token, dict) for token in listed.values()):
        raise UserError(f"{path} has an added_tokens_decoder that is no object of tokens")
    known = tokenizer.get_added_tokens_decoder()
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


def _sampling(folder: Path, generation: dict[str, Any]) -> dict[str, float | int]:
    """Settings of generation_config.json if it asks for random answers."""
    if not generation.get("do_sample"):
        return {}
    given = {name: generation[name] for name in manifest.Sampling.model_fields if generation.get(name) is not None}
    try:
        manifest.Sampling.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{folder / 'generation_config.json'} has {first['loc'][0]}={first['input']!r}: {first['msg'].lower()}"
        ) from error
    return given


def generation_warnings(folder: Path) -> list[str]:
    """Settings of generation_config.json that change answers, and that no program here has."""
    path = folder / "generation_config.json"
    values = read_json(path)
    found = [
        f"{key}={values[key]!r}" for key, nothing in _ANSWERS.items() if values.get(key) not in (None, [], nothing)
    ]
    return [f"{path} has {', '.join(found)}, and answers are made without that"] if found else []


def _eos_ids(
    folder: Path,
    configs: tuple[dict[str, Any], ...],
    named: dict[str, str],
    stop: str | None,
    tokenizer: Any,
    vocab_size: int,
) -> tuple[int, ...]:
    """What the configuration lists, and the token that ends an answer in the chat template, which lists often lack."""
    files = ("generation_config.json", CONFIG, CONFIG)
    ids: list[int] = []
    for file, config in zip(files, configs, strict=True):
        ids = ids or token_ids(config.get("eos_token_id"), f"{folder / file} has eos_token_id", vocab_size)
    for text in (stop, None if ids else named.get("eos_token")):
        token = tokenizer.token_to_id(text) if text is not None else None
        if token is not None and token not in ids:
            ids += token_ids(token, f"{folder / TOKENIZER} has {text!r}, which ends an answer,", vocab_size)
    if not ids:
        raise UserError(
            f"{folder} names no token that ends an answer; set eos_token_id in generation_config.json or config.json"
        )
    return tuple(ids)


def _licence(folder: Path) -> str | None:
    """The licence that the model card's header names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0] != "---":
        return None
    for line in lines[1:]:
        if line == "---":
            break
        if line.startswith("license:"):
            return line.split(":", 1)[1].strip()
    return None
