"""A decoder for delegates that take any number of tokens: its cache lies in the program's own buffers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.forms.base import Form

if TYPE_CHECKING:
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.settings import ExportForm, Quantization, Settings


class DecoderForm(Form):
    """See `models.decoder`."""

    def check(self, settings: Settings) -> None:
        """An adapter is for the linears as the checkpoint has them, and is alone in its file."""
        rank, recipe = settings.model.adapter_rank, settings.recipe
        if not rank:
            return
        if settings.backend.name != "xnnpack":
            super().check(settings)
        if recipe.transform != "none" or recipe.prefer is not None:
            raise UserError(
                f"model.adapter_rank={rank} needs the inputs of the linears as the checkpoint has them, and "
                f"recipe={recipe.name} may change them; use recipe=8da4w or another one with recipe.transform=none"
            )
        if settings.backend.external_weights:
            raise UserError(
                f"model.adapter_rank={rank} has its adapter in the file beside the program, where "
                "backend.external_weights=true puts all weights; leave that out"
            )

    def export(
        self, model: Any, facts: Facts, form: ExportForm, quantization: Quantization, out: Path
    ) -> dict[str, Any]:
        """Trace with a dynamic number of tokens."""
        from et_pipeline.models.adapted import make_adaptable
        from et_pipeline.models.decoder import Decoder, export_decoder, metadata, save_program

        if form.adapter_rank:
            make_adaptable(model, form.adapter_rank)
        decoder = Decoder(model, form)
        save_program(export_decoder(decoder), out)
        return metadata(decoder, facts.bos_id or 0, facts.eos_ids)


FORM = DecoderForm()
