"""What a whole `manifest.json` says, in which version, and its JSON Schema.

These classes are the contract with the Android app. The JSON Schema in `manifest.schema.json` is made from them
(`python -m et_pipeline.manifest`), and their descriptions are what an app developer reads. Readers refuse fields that
they do not know, so any change of the fields raises `VERSION`. Version 2 only added to version 1 (weights beside a
program, and models that embed texts), version 3 to version 2 (several programs, each with its figures), version 4 to
version 3 (quality on a text, and what is left of a source's own quantization), version 5 to version 4 (the witness of
the original, and what was done to the tokenizer), version 6 to version 5 (white space that the caller leaves out),
version 7 to version 6 (intervals of estimates), version 8 to version 7 (what was done to the source, adapters),
version 9 to version 8 (states that are no keys and values, prompts and shorter lengths of embeddings), version 10 to
version 9 (more of sampling), and version 11 to version 10 (the switch for thinking, what an adapter is for), so bundles
of all of them are read.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from et_pipeline.manifest.adapter import Adapter
from et_pipeline.manifest.chat import Chat, Sample, Task
from et_pipeline.manifest.cost import Memory, Speed, StageCost
from et_pipeline.manifest.embedding import Embedding
from et_pipeline.manifest.fields import FileName, Model
from et_pipeline.manifest.program import ProgramInfo
from et_pipeline.manifest.quality import Gate, Quality
from et_pipeline.manifest.tokenizer import Tokenizer
from et_pipeline.manifest.what import File, What

FORMAT: Final = "et_pipeline.bundle"
VERSION: Final = 11
READABLE: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
FILE_NAME = "manifest.json"
SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")


class Manifest(Model):
    """Everything an app needs to know about a bundle without opening a .pte file."""

    format: Literal["et_pipeline.bundle"] = Field(default=FORMAT, description="Always 'et_pipeline.bundle'.")
    version: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] = Field(
        default=VERSION,
        description="Version of this format; refuse one that you do not know. Each only adds to the last.",
    )
    what: What
    files: dict[FileName, File] = Field(
        description="Every file of the bundle except manifest.json, by its path inside the bundle ('/' between parts)."
    )
    programs: list[ProgramInfo] = Field(
        min_length=1,
        description="The programs, those for certain chips first; take the first that the phone's chip and the app's "
        "runtime fit. One of them, which has no 'memory' and 'quality' of its own, is what the bundle's 'memory', "
        "'quality', 'speed', 'stages' and 'samples' tell of.",
    )
    adapters: list[Adapter] = Field(
        default=[], description="What makes other models of a program while it is loaded; without one it is the base."
    )
    tokenizer: Tokenizer
    chat: Chat | None = Field(default=None, description="Null if and only if what.task is 'embedding'.")
    embedding: Embedding | None = Field(default=None, description="Null unless what.task is 'embedding'.")
    tasks: dict[str, Task] = Field(default={}, description="What the bundle is made for, by name.")
    memory: Memory
    quality: Quality
    speed: list[Speed] = Field(
        default=[], description="Speed on each machine where it was measured; that of an embedding is in 'embedding'."
    )
    stages: dict[str, StageCost] = Field(default={}, description="What each stage of making the bundle took.")
    samples: list[Sample] = Field(default=[], description="Answers of the deployed program.")

    @property
    def main(self) -> ProgramInfo:
        """The program that the bundle's own figures tell of."""
        return next(program for program in self.programs if program.quality is None)

    def quality_of(self, program: ProgramInfo) -> Quality:
        """Its own, or the bundle's."""
        return program.quality or self.quality

    def memory_of(self, program: ProgramInfo) -> Memory:
        """Its own, or the bundle's."""
        return program.memory or self.memory

    @property
    def gates(self) -> list[Gate]:
        """The verdicts on all programs."""
        return [self.quality_of(program).gate for program in self.programs]

    @model_validator(mode="after")
    def _parts_follow_task(self) -> Self:
        embeds = self.what.task == "embedding"
        if (self.chat is None) != embeds or (self.embedding is not None) != embeds:
            part, other = ("embedding", "chat") if embeds else ("chat", "embedding")
            raise ValueError(f"what.task is '{self.what.task}', so there must be '{part}' and no '{other}'")
        quality = self.quality
        if embeds and (self.tasks or self.samples or self.speed or quality.agreement or quality.text):
            raise ValueError("an embedding has no 'tasks', 'samples', 'speed', 'quality.agreement' and 'quality.text'")
        if not embeds and self.quality.embedding:
            raise ValueError("'quality.embedding' belongs to an embedding only")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        programs = [file for program in self.programs for file in (program.file, *program.weights)]
        for file in [*programs, self.tokenizer.file, *(adapter.file for adapter in self.adapters)]:
            if file not in self.files:
                raise ValueError(f"'{file}' is used but not listed in 'files'")
        self._check_adapters()
        if all(program.quality for program in self.programs):
            raise ValueError("every program has a 'quality' of its own, so there is none that the bundle's tells of")
        for sample in self.samples:
            if sample.task not in self.tasks:
                raise ValueError(f"a sample is of task '{sample.task}', which is not in 'tasks'")
        for file in [*self.files, FILE_NAME]:
            for parent in PurePosixPath(file).parents:
                if str(parent) in self.files or str(parent) == FILE_NAME:
                    raise ValueError(f"'{parent}' cannot be a file and the folder of '{file}'")
        if FILE_NAME in self.files:
            raise ValueError(f"'files' must not list {FILE_NAME} itself")
        return self

    def _check_adapters(self) -> None:
        names = [adapter.name for adapter in self.adapters]
        for adapter in self.adapters:
            program = next((each for each in self.programs if each.file == adapter.program), None)
            if program is None or not 0 < adapter.rank <= program.adapter_rank:
                raise ValueError(f"no program takes the adapter '{adapter.name}' of rank {adapter.rank}")
            if names.count(adapter.name) > 1:
                raise ValueError(f"two adapters are called '{adapter.name}'")
            for sample in adapter.samples:
                if sample.task not in self.tasks:
                    raise ValueError(f"a sample is of task '{sample.task}', which is not in 'tasks'")
        if any(program.adapter_rank and len(program.weights) != 1 for program in self.programs):
            raise ValueError("a program that takes adapters has one file of 'weights', for them")


def json_schema() -> str:
    """The text of `manifest.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="serialization"),
    }
    schema["title"] = "et_pipeline bundle manifest"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
