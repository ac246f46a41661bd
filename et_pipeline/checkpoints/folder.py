"""A checkpoint's folder in Hugging Face layout: what several ask for is read once, when the first one does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from et_pipeline.architecture import ENCODERS
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.config import language_config, one_sentence, put_right, senses
from et_pipeline.checkpoints.layout import SINGLE, TensorInfo, language_model, read_header, read_layout
from et_pipeline.checkpoints.tokenizer.file import FILE as TOKENIZER
from et_pipeline.errors import UserError

GENERATION, TOKENS = "generation_config.json", "tokenizer_config.json"
MODULES = "modules.json"  # of sentence-transformers


@dataclass(frozen=True)
class Folder:
    """A checkpoint by its files, which whoever is handed it shares: what they hold is not to be changed.

    Each property raises a `UserError` where its file is missing or broken.
    """

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json, checked and put right."""
        if not (self.path / CONFIG).exists():
            raise UserError(f"{self.path} holds no {CONFIG}: point model.source at a checkpoint folder")
        return put_right(language_config(self.settings(CONFIG)), str(self.path / CONFIG))

    @cached_property
    def senses(self) -> list[str]:
        """Parts of it that see or hear, by their keys in config.json: its language model alone counts here."""
        return senses(self.settings(CONFIG))

    @cached_property
    def generation(self) -> dict[str, Any]:
        """How its makers want answers to be drawn; {} where they do not say."""
        return self.settings(GENERATION)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """What is said of the tokenizer beside itself; {} where nothing is."""
        return self.settings(TOKENS)

    @cached_property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` of its tokenizer.json."""
        from tokenizers import Tokenizer

        path = self.path / TOKENIZER
        if not path.is_file():
            raise UserError(
                f"{path} is missing; the phone needs the fast tokenizer that transformers saves under that name"
            )
        with one_sentence(f"{path} is not a readable tokenizer"):
            return Tokenizer.from_file(str(path))

    @property
    def licence(self) -> str | None:
        """What the header of its model card names."""
        card = self.path / "README.md"
        lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
        header = takewhile(lambda line: line != "---", lines[1:] if lines[:1] == ["---"] else [])
        return next((line.split(":", 1)[1].strip() for line in header if line.startswith("license:")), None)

    @cached_property
    def embeds(self) -> bool:
        """Whether it embeds texts: an encoder does, and any other model that sentence-transformers' files say so of."""
        return self.config.get("model_type") in ENCODERS or (self.path / MODULES).is_file()

    @cached_property
    def modules(self) -> list[tuple[str, str]]:
        """What sentence-transformers' modules.json lists: kind, such as Pooling, and folder of each; [] without it."""
        path, modules = self.path / MODULES, self.json(MODULES, [])
        try:
            return [(str(step["type"]).rpartition(".")[2], str(step["path"])) for step in modules]
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is not a list of sentence-transformers modules ({error!r})") from error

    @cached_property
    def layout(self) -> dict[str, TensorInfo]:
        """The tensors as its files have them; those of linear layers behind a pooling begin with their folder."""
        found = read_layout(self.path)
        found = language_model(found, self.path) if self.senses else found
        for kind, name in self.modules:
            if kind == "Dense":
                folder = self.path / name
                if not name or Path(name).name != name:
                    raise UserError(f"{self.path / MODULES} has a Dense layer in {name!r}, expected a folder beside it")
                if not (folder / SINGLE).is_file() and (folder / "pytorch_model.bin").is_file():
                    raise UserError(
                        f"{folder} has its weights in pytorch_model.bin, a pickle, which can run any code when it is "
                        "read; save the model by sentence-transformers anew"
                    )
                for tensor, info in read_header(folder, SINGLE).items():
                    found[f"{name}/{tensor}"] = info._replace(file=f"{name}/{info.file}")
        return found

    @cached_property
    def contents(self) -> prequantized.Contents:
        """The tensors that they stand for."""
        return prequantized.find(self.path, self.config, self.layout)

    def settings(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; {} where there is no such file.

        Raises:
            UserError: it is not a JSON object.
        """
        value = self.json(name, {})
        if not isinstance(value, dict):
            raise UserError(f"{self.path / name} holds a {type(value).__name__}, expected a JSON object")
        return value

    def json(self, name: str, missing: Any = None) -> Any:
        """What a JSON file of the folder holds.

        Args:
            name: of the file.
            missing: what to say where there is none.

        Raises:
            UserError: it is no JSON.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return missing
        except (ValueError, RecursionError, OSError) as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
