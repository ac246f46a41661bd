"""An encoder for delegates that take any number of tokens: a text comes alone and is embedded in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.forms.base import Form
from et_pipeline.models.pooling import Pooling

if TYPE_CHECKING:
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Quantization


class EncoderForm(Form):
    """See `models.encoder`."""

    embeds = True

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace with a dynamic number of tokens."""
        from et_pipeline.models.decoder import save_program
        from et_pipeline.models.encoder import Encoder, export_encoder, metadata

        encoder = Encoder(model, facts.pooling or Pooling(), form.max_context)
        save_program(export_encoder(encoder), out)
        return metadata(encoder)

    def kv_cache_bytes(self, facts: Facts, form: ExportForm, backend: str) -> int:
        """It remembers nothing."""
        return 0


FORM = EncoderForm()
