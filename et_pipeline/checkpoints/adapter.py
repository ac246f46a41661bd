"""A peft adapter in its folder: what it says of itself, and which model it is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline import cache
from et_pipeline.checkpoints import hub, source
from et_pipeline.checkpoints.folder import GENERATION, TOKENS, Folder
from et_pipeline.checkpoints.layout import TensorInfo, read_header
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.tokenizer.file import FILE as TOKENIZER
from et_pipeline.errors import UserError
from et_pipeline.settings import Checkpoint

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
#: What a fine-tune brings beside its weights, which takes the place of the base's.
TOKENIZER_FILES = (TOKENIZER, TOKENS, "special_tokens_map.json", "chat_template.jinja")
SMALL_FILES = (*TOKENIZER_FILES, GENERATION)
PATTERNS = (CONFIG, WEIGHTS, PICKLE, *SMALL_FILES)
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An adapter by its files; each property raises a `UserError` where its file is missing or broken."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its adapter_config.json, of a kind that becomes a part of the weights."""
        path = self.path / CONFIG
        if not path.is_file():
            raise UserError(f"{self.path} holds no {CONFIG}: point model.adapter at a folder that peft has saved")
        found = Folder(self.path).settings(CONFIG)
        kind = found.get("peft_type")
        if kind != "LORA":
            raise UserError(
                f"{path} has peft_type={kind!r}; adapters of LORA are merged, DoRA and rsLoRA among them; merge others "
                "with their own tool, and point model.source at the result"
            )
        if found.get("trainable_token_indices"):
            raise UserError(
                f"{path} has trainable_token_indices, single rows of a table, which are not merged here; "
                "merge the adapter with peft's merge_and_unload, and point model.source at the result"
            )
        return found

    @cached_property
    def layout(self) -> dict[str, TensorInfo]:
        """Its tensors."""
        if not (self.path / WEIGHTS).is_file():
            if (self.path / PICKLE).is_file():
                raise UserError(
                    f"{self.path} has its weights in {PICKLE}, a pickle, which can run any code when it is read; save "
                    "the adapter with safe_serialization=True and use that"
                )
            raise UserError(f"{self.path} has no {WEIGHTS}: point model.adapter at a folder that peft has saved")
        return read_header(self.path, WEIGHTS)

    @property
    def base(self) -> str | None:
        """The model that it was trained on, as it names that: a hub id or a folder."""
        found = self.config.get("base_model_name_or_path")
        return found if isinstance(found, str) and found else None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each of its files that is read, by name."""
        return {
            name: cache.sha256_file(self.path / name)
            for name in sorted({CONFIG, WEIGHTS, *SMALL_FILES})
            if (self.path / name).is_file()
        }


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    others = [path for path in folder.glob("*.safetensors") if path.name != WEIGHTS]
    return (folder / CONFIG).is_file() and not others


def resolve(name: str, place: Place) -> Adapter:
    """The adapter of `model.adapter`: a folder, or a hub id, which is downloaded.

    Raises:
        UserError: there is none.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises for an unknown user
    if not path.is_dir():
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise UserError(f"model.adapter={name} is neither a folder nor a hub id such as user/my-adapter")
        path = hub.download(name, None, place, "model.adapter", PATTERNS)
    return _checked(Adapter(path.resolve()))


class Found(NamedTuple):
    """What a run is to be made from.

    Attributes:
        checkpoint: the original.
        folder: of the original.
        files: SHA-256 of its files, by name.
        adapter: what is to be merged into it, if anything is.
    """

    checkpoint: Checkpoint
    folder: Path
    files: dict[str, str]
    adapter: Adapter | None


def prepare(model: Checkpoint, seed: int, place: Place) -> Found:
    """The original, and the adapter that is to change it.

    Where `model.source` is an adapter alone, the original is the model that it names.

    Raises:
        UserError: as `source.prepare`, or the adapter is missing, broken or of another kind.
    """
    adapter = None if model.adapter is None else resolve(model.adapter, place)
    if adapter is None or model.adapter != model.source:  # equal where no source is given: see `load_settings`
        folder, files = source.prepare(model, seed, place)
        if not is_adapter(folder):
            return Found(model, folder, files, adapter)
        if adapter is not None and adapter.path != folder:
            raise UserError(
                f"model.source={model.source} is an adapter, and model.adapter={model.adapter} another; one is merged: "
                "point model.source at the model that they are for"
            )
        adapter = _checked(Adapter(folder))
    said, name = f"model.source=<folder or hub id> model.adapter={adapter.path}", adapter.base
    if name is None:
        raise UserError(f"{adapter.path / CONFIG} does not name its base model; say it: {said}")
    beside = adapter.path.parent / name
    base = model.model_copy(
        update={
            "source": str(beside) if beside.is_dir() else name,
            "revision": adapter.config.get("revision"),
            "adapter": str(adapter.path),
        }
    )
    try:
        return Found(base, *source.prepare(base, seed, place), adapter)
    except UserError as error:
        raise UserError(
            f"{adapter.path / CONFIG} names {name} as its base, which is not to be had; give it as {said} ({error})"
        ) from error


def _checked(adapter: Adapter) -> Adapter:
    assert adapter.config
    assert adapter.layout
    return adapter
