"""What is verified: a program, and the models that it has to agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.settings import Backend, ExportForm, Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from et_pipeline.forms.base import Form
    from et_pipeline.runtime.program import Program

Advance = Callable[[int], None]
"""Takes how many steps of the work are done."""


@dataclass(frozen=True)
class Subject:
    """A program and what it was made from.

    Attributes:
        checkpoint: folder of the original.
        gguf: the file that it was converted from, if it was.
        quantized: folder of the quantized weights, or of the quantized program.
        lowered: folder of the .pte.
        form: the program's sizes.
        made_as: its form.
    """

    checkpoint: Path
    gguf: Path | None
    quantized: Path
    lowered: Path
    facts: Facts
    form: ExportForm
    quantization: Quantization
    backend: Backend
    made_as: Form

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's."""
        return Folder(self.checkpoint).tokenizer

    @property
    def executable(self) -> bool:
        """Whether this host can execute the program."""
        return get_backend(self.backend.name).can_execute

    def load_quantized(self) -> Any:
        """The quantized model before it was lowered: transformers' own, or the program where the backend makes it so.

        Quantized weights stay mapped to their files.
        """
        if get_backend(self.backend.name).calibrated:
            return self.made_as.reference(self.quantized)
        from et_pipeline.quantization.torchao_config import load_quantized  # imports torchao

        return load_quantized(self.checkpoint, self.quantized, self.quantization)

    def quantized_outputs(
        self,
        model: Any,
        sequences: Sequence[Sequence[int]],
        advance: Advance,
        eager: Callable[[PreTrainedModel, Sequence[Sequence[int]]], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """What the model of `load_quantized` computes of each sequence; `eager` is how one of transformers does it."""
        if get_backend(self.backend.name).calibrated:
            return self.made_as.reference_outputs(model, self.lowered, sequences, advance)
        advance(len(sequences))
        return eager(model, sequences)

    @property
    def program_bytes(self) -> int:
        """The size of the .pte, with its weights where they have a file of their own."""
        return sum(file.stat().st_size for file in self.lowered.glob("model.*"))

    def open_program(self, threads: int | None = None) -> Program:
        """The .pte, loaded into the runtime; by default that chooses how many threads compute."""
        get_backend(self.backend.name).prepare()
        return self.made_as.open(self.lowered, threads)
