"""An adapter in peft's folder or a GGUF file: what it says of itself, and which model it is for."""

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
    """An adapter by its files; each property raises a `UserError` where its file is missing or broken.

    Attributes:
        path: the folder, or a GGUF file.
        gguf: the file that the folder was made from, if it was.
    """

    path: Path
    gguf: Path | None = None

    def __str__(self) -> str:
        return str(self.gguf or self.path)

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
        if is_gguf(self.path):
            from et_pipeline.checkpoints.gguf.lora import base_of  # not above: gguf takes a third of a second

            return base_of(self.path)
        found = self.config.get("base_model_name_or_path")
        return found if isinstance(found, str) and found else None

    def at(self, name: str) -> Path:
        """Where the user finds what is in one of its files."""
        return self.gguf or self.path / name

    def check(self) -> None:
        """Raise a `UserError` for what the files alone show to be wrong."""
        if is_gguf(self.path):
            _ = self.base  # opens the file
        else:
            assert self.config
            assert self.layout

    def in_folder(self, base: Folder, scratch: Path) -> Adapter:
        """The same in peft's form: one in a GGUF file is written into a folder, for which its base is needed."""
        if not is_gguf(self.path):
            return self
        from et_pipeline.checkpoints.gguf.lora import write_peft

        write_peft(self.path, base, scratch)
        return Adapter(scratch, self.path)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each of its files that is read, by name."""
        file = self.gguf or self.path
        if is_gguf(file):
            return {file.name: cache.sha256_file(file)}
        return {
            name: cache.sha256_file(self.path / name)
            for name in sorted({CONFIG, WEIGHTS, *SMALL_FILES})
            if (self.path / name).is_file()
        }


def is_gguf(path: Path) -> bool:
    """Whether an adapter is one file of llama.cpp's."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    others = [path for path in folder.glob("*.safetensors") if path.name != WEIGHTS]
    return (folder / CONFIG).is_file() and not others


def resolve(name: str, place: Place) -> Adapter:
    """The adapter of `model.adapter`: a folder, a GGUF file, or a hub id, which is downloaded.

    Raises:
        UserError: there is none.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises for an unknown user
    if not path.is_dir() and not is_gguf(path):
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise UserError(
                f"model.adapter={name} is neither a folder, nor a .gguf file, nor a hub id such as user/my-adapter"
            )
        path = hub.download(name, None, place, "model.adapter", PATTERNS)
    return _checked(Adapter(path.absolute() if is_gguf(path) else path.resolve()))  # a link's own name counts


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
    where = adapter.path if is_gguf(adapter.path) else adapter.path / CONFIG
    if name is None:
        raise UserError(f"{where} does not name its base model; say it: {said}")
    beside = adapter.path.parent / name
    base = model.model_copy(
        update={
            "source": str(beside) if beside.is_dir() else name,
            "revision": None if is_gguf(adapter.path) else adapter.config.get("revision"),
            "adapter": str(adapter.path),
        }
    )
    try:
        return Found(base, *source.prepare(base, seed, place), adapter)
    except UserError as error:
        raise UserError(
            f"{where} names {name} as its base, which is not to be had; give it as {said} ({error})"
        ) from error


def _checked(adapter: Adapter) -> Adapter:
    adapter.check()
    return adapter
