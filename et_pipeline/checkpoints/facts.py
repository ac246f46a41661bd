"""What a checkpoint's small files say about the model: read without torch, checked before anything heavy starts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from et_pipeline import manifest
from et_pipeline.architecture import HEADS, UNUSED_BY_ENCODERS, Sizes, check_answers, read_sizes
from et_pipeline.chat_template import ChatFormat, Thinking
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.generation import read_sampling
from et_pipeline.checkpoints.pooling import check_case, read_max_tokens, read_pooling, read_usage
from et_pipeline.checkpoints.template import load_chat_format, load_thinking
from et_pipeline.checkpoints.tokenizer.file import FILE as TOKENIZER
from et_pipeline.checkpoints.tokenizer.file import Form
from et_pipeline.checkpoints.tokens import read_tokens
from et_pipeline.models.pooling import Pooling

FILE = "facts.json"


class Facts(Sizes):
    """A checkpoint in brief.

    Attributes:
        family: `model_type` of config.json.
        parameters: count over all tensors of the checkpoint that the task needs; tied ones once.
        stored: in words how the checkpoint's weights are quantized already; None for floats.
        tied_head: the checkpoint has no head of its own.
        bos_token: the text of `bos_id`.
        eos_ids: tokens that end an answer.
        adds_bos: the tokenizer puts BOS before plain text.
        special_tokens: texts that are never shown.
        chat: the compiled chat template.
        thinking: its switch for thinking before the answer; None if it has none.
        pooling: how an encoder makes an embedding of a text; None for a model that answers.
        prompts: what goes before a text that is embedded, by what the text is for.
        default_prompt: the one that does if nothing is said.
        dimensions: shorter lengths that its embeddings may be cut to.
        normalization: what is done to each text before the bundle's tokenizer gets it.
        lstrip: tokens before which white space is left out then.
        rstrip: tokens behind which it is.
        parity: of that tokenizer with the original's; None before it was compared, and of an encoder.
        sampling: what generation_config.json says of it, as the manifest's `Sampling`.
    """

    family: str
    architecture: str
    parameters: int
    tied_head: bool
    bos_id: int | None
    bos_token: str | None = None
    eos_ids: tuple[int, ...]
    adds_bos: bool
    special_tokens: tuple[str, ...]
    chat: ChatFormat
    thinking: Thinking | None = None
    pooling: Pooling | None = None
    prompts: dict[str, str] = Field(default={})
    default_prompt: str | None = None
    dimensions: tuple[int, ...] = ()
    sampling: dict[str, float | int]
    licence: str | None
    stored: str | None = None
    normalization: Form | None = None
    lstrip: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()
    parity: manifest.TokenizerParity | None = None

    def write(self, folder: Path) -> None:
        """Write `facts.json` into a folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=2), encoding="utf-8")

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
            thinking=self.thinking,
        )

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Read `facts.json` from a folder."""
        return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))


def read_facts(folder: Folder) -> Facts:
    """Read and check config.json, the tokenizer, the chat template and the safetensors headers of a checkpoint.

    Raises:
        UserError: a file is missing, broken, or does not fit the others.
    """
    config, contents = folder.config, folder.contents
    text = config.get("text_config", config)
    encodes = folder.embeds
    if not encodes:
        check_answers(text, str(folder.path / CONFIG))
    sizes, layout = read_sizes(config, str(folder.path / CONFIG)), contents.layout
    tokenizer = folder.tokenizer
    chat = load_chat_format(folder)
    tokens = read_tokens(folder, chat, answers=not encodes)
    pooling, longest, usage = None, None, None
    if encodes:
        layout = {name: info for name, info in layout.items() if not UNUSED_BY_ENCODERS.search(name)}
        check_case(folder, json.loads(tokenizer.to_str())["normalizer"])
        pooling, longest, usage = read_pooling(folder), read_max_tokens(folder), read_usage(folder)
    return Facts(
        family=str(config.get("model_type", "")),
        architecture=_architecture(config),
        parameters=sum(math.prod(info.shape) for info in layout.values()),
        **{**dict(sizes), "max_position": min(sizes.max_position, longest or sys.maxsize)},
        **tokens._asdict(),
        tied_head=not any(name.endswith(HEADS) for name in layout),
        chat=chat,
        thinking=load_thinking(folder),
        pooling=pooling,
        **({} if usage is None else {"prompts": usage.prompts, "default_prompt": usage.default}),
        dimensions=() if usage is None else usage.dimensions,
        sampling=read_sampling(folder),
        licence=folder.licence,
        stored=contents.form,
    )


def _architecture(config: dict[str, Any]) -> str:
    """The class that transformers loads the checkpoint with; only shown."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
