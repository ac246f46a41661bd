"""A decoder for delegates that take no dynamic shape: one token per call, the whole context in every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from et_pipeline import gemma
from et_pipeline.errors import UserError
from et_pipeline.forecast import slot_bytes
from et_pipeline.forms.base import FEEDINGS, TOKENS, Advance, Form
from et_pipeline.states import goes_back

if TYPE_CHECKING:
    import torch

    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Quantization, Settings


class StaticDecoderForm(Form):
    """See `models.static_decoder`."""

    ways: ClassVar[tuple[str, ...]] = FEEDINGS[-1:]
    long = False

    def check(self, settings: Settings) -> None:
        """The delegate keeps a cache of its own kind."""
        if settings.model.kv_cache != "fp32":
            raise UserError(
                f"model.kv_cache={settings.model.kv_cache} is for backend=xnnpack; backend={settings.backend.name} has "
                "a cache of its own kind, so leave it at fp32"
            )
        super().check(settings)

    def check_model(self, settings: Settings, facts: Facts) -> None:
        """All layers have keys and values of one size."""
        if facts.family in gemma.KINDS or not goes_back(facts.states):
            raise UserError(
                f"backend={settings.backend.name} makes programs of static shape, which hold keys and values of one "
                f"size, and layers of family {facts.family} remember others; use backend=xnnpack"
            )

    def fit(self, form: ExportForm) -> ExportForm:
        """A prompt goes in token by token."""
        return form.model_copy(update={"prefill_chunk": 1})

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace the one call that there is."""
        from et_pipeline.models.decoder import save_program
        from et_pipeline.models.static_decoder import StaticDecoder, export_static, static_metadata

        # Qualcomm's delegate allocates the cache and leaves what is in that memory.
        decoder = StaticDecoder(model, form, unclean=quantization.scheme == "fp16")
        save_program(export_static(decoder), out)
        return static_metadata(decoder, facts.bos_id or 0, facts.eos_ids)

    def feeder(
        self, program: Any, methods: Mapping[str, Any], texts: Sequence[Sequence[int]], tick: Advance
    ) -> Callable[[Any], None]:
        """Token by token."""
        import torch

        def feed(call: Any) -> None:
            for done, text in enumerate(texts):
                for position, token in enumerate(text):
                    call(torch.tensor([[token]]), torch.tensor([position]))
                tick(done + 1)

        return feed

    def sequence_length(self, form: ExportForm) -> int:
        """So that comparing takes no hours."""
        return min(form.max_context, TOKENS)

    def reference_outputs(
        self, reference: Any, lowered: Path, sequences: Sequence[Sequence[int]], advance: Advance
    ) -> list[torch.Tensor]:
        """One token per call."""
        import torch

        found = []
        with torch.no_grad():
            for sequence in sequences:
                calls = (reference(torch.tensor([[token]]), torch.tensor([at])) for at, token in enumerate(sequence))
                found.append(torch.stack([logits.reshape(-1).float() for logits in calls]))
                advance(1)
        return found

    def state_bytes(self, facts: Facts, form: ExportForm, backend: str) -> dict[str, int]:
        """All of the context in every layer; Qualcomm's delegate holds it in 16-bit integers or floats."""
        kind = "fp16" if backend == "qnn" else form.kv_cache
        size = facts.layers * form.max_context * slot_bytes(facts.kv_heads, facts.head_dim, kind)
        return {"keys_values": size}


FORM = StaticDecoderForm()
