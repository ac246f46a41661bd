"""An encoder for delegates that take no dynamic shape: each text padded to one length, with a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.forms.base import Advance
from et_pipeline.forms.encoder import EncoderForm
from et_pipeline.models.pooling import Pooling
from et_pipeline.runtime.embedding import padded

if TYPE_CHECKING:
    import torch

    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Quantization


class StaticEncoderForm(EncoderForm):
    """See `models.static_encoder`."""

    signature = "tokens_mask"

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace the one call that there is."""
        from et_pipeline.models.decoder import save_program
        from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata

        encoder = StaticEncoder(model, facts.pooling or Pooling(), form.max_context)
        save_program(export_static_encoder(encoder), out)
        return static_encoder_metadata(encoder)

    def feeder(
        self, program: Any, methods: Mapping[str, Any], texts: Sequence[Sequence[int]], tick: Advance
    ) -> Callable[[Any], None]:
        """A padded text per call."""
        longest = methods["get_max_context_len"]

        def feed(call: Any) -> None:
            for done, text in enumerate(texts):
                call(*padded(list(text), longest, methods["get_pad_id"]))
                tick(done + 1)

        return feed

    def reference_outputs(
        self, reference: Any, lowered: Path, sequences: Sequence[Sequence[int]], advance: Advance
    ) -> list[torch.Tensor]:
        """Its embedding of each text, [dimension] each."""
        import torch

        from et_pipeline.runtime.program import read_metadata

        methods = read_metadata(lowered / self.executed)
        longest, pad = methods["get_max_context_len"], methods["get_pad_id"]
        found = []
        with torch.no_grad():
            for ids in sequences:
                found.append(reference(*padded(list(ids), longest, pad))[0])
                advance(1)
        return found


FORM = StaticEncoderForm()
