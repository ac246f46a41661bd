"""What a form answers, and what most of them have in common. Importing this needs neither torch nor executorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel

from et_pipeline import manifest
from et_pipeline.errors import UserError
from et_pipeline.evaluation.feeding import FEEDINGS
from et_pipeline.evaluation.gate import judge
from et_pipeline.evaluation.subject import Advance
from et_pipeline.evaluation.verified import Verified
from et_pipeline.forecast import state_bytes
from et_pipeline.runtime.speed import Speed, measure_speed

if TYPE_CHECKING:
    import torch

    from et_pipeline.backends.base import Delegation
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.runtime.program import Program
    from et_pipeline.settings import Backend, ExportForm, Measure, Quantization, Settings

METADATA = "metadata.json"
PTE = "model.pte"
TOKENS = 96  # of a sequence that is fed one token per call


class Form:
    """One kind of program: how it is built, fed and described.

    Attributes:
        embeds: it makes embeddings of texts; otherwise it answers.
        methods: what a runtime calls.
        signature: the manifest's word for what these take.
        executed: which of lower's files this host executes.
        twin: that one is a twin of the program, which no runtime here executes itself.
        ways: in which a prompt can be fed to it.
        backends: names of those that a form of another package is for; ours are in the table.
        long: a text of several calls, beyond each sliding window, is compared too.
        compared: module of `evaluation` with the steps of `verify`.
        verified: what `verify` finds out.
        measured: what `measure` finds out.
    """

    embeds: ClassVar[bool] = False
    methods: ClassVar[tuple[str, ...]] = ("forward",)
    signature: ClassVar[Literal["tokens", "tokens_mask", "tokens_cache"]] = "tokens"
    executed: ClassVar[str] = PTE
    twin: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = FEEDINGS
    long: ClassVar[bool] = True
    backends: ClassVar[tuple[str, ...]] = ()
    compared: ClassVar[Literal["answers", "embedding"]] = "answers"
    verified: ClassVar[type[BaseModel]] = Verified
    measured: ClassVar[type[BaseModel]] = Speed

    def check(self, settings: Settings) -> None:
        """Refuse, with a `UserError`, settings that a program of this form cannot have."""
        if settings.model.adapter_rank:
            raise UserError(
                f"model.adapter_rank={settings.model.adapter_rank} is for models that answer on backend=xnnpack; other "
                "programs take no adapter once they are made, so set it to 0"
            )

    def check_model(self, settings: Settings, facts: Facts) -> None:
        """Refuse, with a `UserError`, a model whose layers a program of this form cannot hold."""

    def fit(self, form: ExportForm) -> ExportForm:
        """The sizes that the program has where these are asked for."""
        return form

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace a model and write the program; returns its constant methods."""
        raise NotImplementedError

    def calibrate(
        self, backend: Any, exported: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Advance
    ) -> None:
        """Quantize an exported program by what texts show; `tick` takes how many have been fed."""
        from et_pipeline.models.decoder import load_program, save_program

        program = load_program(exported)
        feed = self.feeder(program, read_methods(exported), texts, tick)
        save_program(backend.quantize(program, q, feed), out)

    def feeder(self, program: Any, methods: Mapping[str, Any], texts: Sequence[Sequence[int]], tick: Advance) -> Any:
        """A function that feeds the texts to a call of an exported program."""
        raise NotImplementedError

    def calibration_length(self, exported: Path) -> int:
        """Most tokens of one text to calibrate with."""
        return int(read_methods(exported)["get_max_context_len"])

    def lower(self, backend: Any, folder: Path, methods: Mapping[str, Any], out: Path, settings: Backend) -> Delegation:
        """Hand a program to its backend and write what phones run; `settings` are the backend's."""
        from et_pipeline.models.decoder import load_program

        found: Delegation = backend.lower(
            load_program(folder), methods, out / PTE, external_weights=settings.external_weights
        )
        return found

    def sequence_length(self, form: ExportForm) -> int:
        """Most tokens of a sequence whose logits are compared."""
        return form.prefill_chunk

    def reference(self, folder: Path) -> Any:
        """The quantized program before it was lowered, from the folder of `calibrate`."""
        from et_pipeline.models.decoder import load_program

        return load_program(folder).module()

    def reference_outputs(
        self, reference: Any, lowered: Path, sequences: Sequence[Sequence[int]], advance: Advance
    ) -> list[torch.Tensor]:
        """Its logits of every position, [length, vocabulary] each; `lowered` is lower's folder."""
        raise NotImplementedError

    def measure(self, pte: Path, tokenizer: Path, asked: Measure) -> BaseModel:
        """Time it with ExecuTorch's own LLM runner."""
        return measure_speed(pte, tokenizer, asked.prompt_tokens, asked.decode_tokens, asked.rounds, asked.threads)

    def quality(self, found: Any, settings: Settings) -> manifest.Quality:
        """The manifest's part on what `verify` found out."""
        asked, text = settings.verify, None
        if found.text is not None:
            source = manifest.portable_source(asked.text or "")
            text = manifest.TextQuality(source=source, window=asked.window, stride=asked.stride, **dict(found.text))
        return manifest.Quality(
            agreement=found.agreement,
            greedy=found.greedy,
            tasks=found.tasks,
            perplexity=found.perplexity,
            text=text,
            witness=found.witness.for_manifest(),
            gate=judge(found, settings.recipe.gate),
        )

    def description(
        self, settings: Settings, facts: Facts, found: Any, speed: Any | None, where: str
    ) -> dict[str, Any]:
        """What else the manifest says of it, by its keys; `speed` was measured on the machine `where`."""
        threads = settings.measure.threads
        return {
            "chat": facts.manifest_chat(settings.task.system_prompt),
            "speed": [] if speed is None else [manifest.Speed(where=where, threads=threads, **dict(speed))],
            "samples": found.samples,
        }

    def open(self, folder: Path, threads: int | None) -> Program:
        """Load what `lower` wrote, as far as this host can execute it."""
        from et_pipeline.runtime.program import Program

        return Program(folder / self.executed, threads=threads)

    def state_bytes(self, facts: Facts, form: ExportForm, backend: str) -> dict[str, int]:
        """What the program remembers between calls, in bytes by kind of state."""
        return state_bytes(facts.states, form)


def read_methods(folder: Path) -> dict[str, Any]:
    """The constant methods that `export` wrote."""
    methods: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    return methods
