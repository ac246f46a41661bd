"""What is deployed: the model, where it came from, and the files of the bundle."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import Field

from et_pipeline.manifest.fields import Bytes, FileName, Model, Sha256


class Source(Model):
    """Where the original weights came from."""

    source: str = Field(description="builtin:<name>, a hub id, or the last part of a local folder's path.")
    revision: str | None = Field(default=None, description="Commit of the hub repository; null for other sources.")
    files: dict[FileName, Sha256] = Field(description="SHA-256 of each source file that was read, by file name.")


class Adaptation(Model):
    """A step that made another model of the original, before it was quantized."""

    step: Literal["merge_lora", "prune_depth", "prune_width", "distill", "qat"] = Field(description="What was done.")
    files: dict[FileName, Sha256] = Field(
        default={}, description="SHA-256 of each file of an adapter that was read, by file name."
    )
    figures: dict[str, float | str | None] = Field(
        default={}, description="What it was done with and what it did, such as an adapter's 'rank', by name."
    )


class What(Model):
    """What is deployed."""

    task: Literal["text-generation", "embedding"] = Field(
        default="text-generation",
        description="'text-generation': it answers, as 'chat' says; 'embedding': it turns a text into a vector, as "
        "'embedding' says. An app for the one has no use for the other.",
    )
    name: str = Field(description="Name to show, such as 'smollm2_135m'.")
    family: str = Field(description="model_type of the Hugging Face configuration, such as 'llama'.")
    architecture: str = Field(description="Architecture class, such as 'LlamaForCausalLM'.")
    parameters: int = Field(ge=1, description="Number of weights of the model.")
    licence: str | None = Field(default=None, description="SPDX or hub identifier of the weights' licence, if known.")
    source: Source
    adaptation: list[Adaptation] = Field(
        default=[], description="What was done to the source before it was quantized, in order."
    )
    tools: dict[str, str] = Field(description="Version of each package that shaped the result, by package name.")
    settings: dict[str, Any] = Field(description="The full settings of the run that made the bundle, without paths.")
    created: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2}",
        description="Day or time of making (ISO 8601); null in a bundle that is reproducible byte for byte.",
    )


class File(Model):
    """One file of the bundle."""

    size: Bytes = Field(description="Size in bytes.")
    sha256: Sha256 = Field(description="SHA-256 of the content, lower-case hexadecimal.")


def portable_source(source: str) -> str:
    """The source as the user gave it, but of a local folder only the name: a bundle goes to other machines."""
    if source.startswith(("/", "~", "./", "../")) or PureWindowsPath(source).drive or Path(source).exists():
        return PurePosixPath(source.replace("\\", "/")).name
    return source
