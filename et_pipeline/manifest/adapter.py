"""Adapters that a loaded program exchanges."""

from __future__ import annotations

from pydantic import Field

from et_pipeline.manifest.chat import Sample
from et_pipeline.manifest.fields import FileName, Model, Sha256
from et_pipeline.manifest.quality import Agreement, Gate, GreedyAgreement


class AdapterQuality(Model):
    """The program with an adapter against the original model with it, computed by peft in float32."""

    agreement: Agreement = Field(description="Of the logits, over the tokens of peft's answers.")
    greedy: GreedyAgreement = Field(description="Of the answers at temperature 0.")
    gate: Gate = Field(description="The verdict, by the thresholds of the program's recipe.")


class Adapter(Model):
    """A low-rank adapter (LoRA): what makes another model of the program while it is loaded."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What it is called.")
    file: FileName = Field(
        description="Path inside the bundle. It is like the program's 'weights' file, byte for byte but for its "
        "numbers: write it over a copy of that which the program was loaded with, and begin at position 0."
    )
    program: FileName = Field(description="The program that it is for, by its 'file'.")
    rank: int = Field(ge=1, description="Its rank; it is filled up with zeros to the program's.")
    base: str | None = Field(description="The model that it was trained for, as it names it itself; null: it does not.")
    source: dict[FileName, Sha256] = Field(description="SHA-256 of each file that it was made from, by name.")
    quality: AdapterQuality
    samples: list[Sample] = Field(default=[], description="Answers of the program with it.")
    about: str | None = Field(default=None, description="What it is for, in a few words; null: nobody said.")
