"""A decoder for delegates that take any number of tokens: its cache lies in the program's own buffers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.forms.base import Form

if TYPE_CHECKING:
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Quantization


class DecoderForm(Form):
    """See `models.decoder`."""

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace with a dynamic number of tokens."""
        from et_pipeline.models.decoder import Decoder, export_decoder, metadata, save_program

        decoder = Decoder(model, form)
        save_program(export_decoder(decoder), out)
        return metadata(decoder, facts.bos_id or 0, facts.eos_ids)


FORM = DecoderForm()
