"""A decoder whose cache the caller holds, so that a method for chunks of a prompt and one for a token share weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.forms.base import FEEDINGS, PTE, Advance, read_methods
from et_pipeline.forms.static_decoder import StaticDecoderForm

if TYPE_CHECKING:
    import torch

    from et_pipeline.backends.base import Delegation
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.runtime.program import Program
    from et_pipeline.settings import Backend, ExportForm, Quantization, Settings


class ExternalCacheForm(StaticDecoderForm):
    """See `models.external_cache`."""

    methods = ("prefill_forward", "kv_forward")
    signature = "tokens_cache"
    executed = "twin.pte"
    twin = True
    ways = FEEDINGS

    def check(self, settings: Settings) -> None:
        """Chunks and caches of integers are needed; a `UserError` says what to change."""
        name = settings.backend.name
        if name != "qnn":
            raise UserError(f"backend.prefill=true is for backend=qnn; leave it out with backend={name}")
        if settings.recipe.scheme == "fp16":
            raise UserError(
                "backend.prefill=true hands on caches of 16-bit integers, and recipe.scheme=fp16 has none; use "
                "recipe=16a4w"
            )
        if settings.model.prefill_chunk == 1:
            raise UserError(
                "backend.prefill=true takes several tokens at once, and model.prefill_chunk=1; raise it, to 32"
            )
        super().check(settings)

    def fit(self, form: ExportForm) -> ExportForm:
        """As they are: it takes chunks."""
        return form

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace both methods."""
        from et_pipeline.models.external_cache import (
            ExternalCacheDecoder,
            export_external,
            external_metadata,
            save_programs,
        )

        decoder = ExternalCacheDecoder(model, form)
        methods = external_metadata(decoder, facts.bos_id or 0, facts.eos_ids)
        save_programs(export_external(decoder, methods), out)
        return methods

    def calibrate(
        self, backend: Any, exported: Path, q: Quantization, texts: Sequence[Sequence[int]], out: Path, tick: Advance
    ) -> None:
        """Quantize both methods alike, fed in chunks."""
        from et_pipeline.models.external_cache import CacheDriver, load_programs, save_programs

        driver = CacheDriver(lambda *_: (), read_methods(exported))

        def feed(call: Any) -> None:
            driver.call = lambda _, given: call(*given)
            for done, text in enumerate(texts):
                # Padding would show ranges of no real text, so the last chunk is filled up with the text itself.
                whole = -(-len(text) // driver.chunk) * driver.chunk
                driver.feed((list(text) * whole)[: min(whole, driver.context)])
                tick(done + 1)

        save_programs(backend.quantize_alike(load_programs(exported), q, feed), out)

    def lower(self, backend: Any, folder: Path, methods: Mapping[str, Any], out: Path, settings: Backend) -> Delegation:
        """With shared weights for phones, and without for the simulator, which takes no others."""
        from et_pipeline.models.external_cache import load_programs

        backend.lower_together(load_programs(folder), methods, out / self.executed, shared=False)
        found: Delegation = backend.lower_together(load_programs(folder), methods, out / PTE, shared=True)
        return found

    def reference(self, folder: Path) -> Any:
        """Both programs."""
        from et_pipeline.models.external_cache import load_programs

        return load_programs(folder)

    def reference_outputs(
        self, reference: Any, lowered: Path, sequences: Sequence[Sequence[int]], advance: Advance
    ) -> list[torch.Tensor]:
        """In chunks."""
        import torch

        from et_pipeline.models.external_cache import CacheDriver
        from et_pipeline.runtime.program import read_metadata

        modules = {name: program.module() for name, program in reference.items()}
        driver = CacheDriver(lambda name, given: modules[name](*given), read_metadata(lowered / self.executed))
        with torch.no_grad():
            found = [driver.feed(sequence) for sequence in sequences]
        advance(len(sequences))
        return found

    def open(self, folder: Path, threads: int | None) -> Program:
        """The twin."""
        from et_pipeline.runtime.program import DrivenProgram

        return DrivenProgram(folder / self.executed)


FORM = ExternalCacheForm()
