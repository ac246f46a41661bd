"""A decoder that remembers less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.forms.decoder import DecoderForm

if TYPE_CHECKING:
    from et_pipeline.settings import ExportForm

CONTEXT = 256


class ToyForm(DecoderForm):
    """The form."""

    backends = ("toy",)

    def fit(self, form: ExportForm) -> ExportForm:
        """At most so many tokens."""
        return form.model_copy(update={"max_context": min(form.max_context, CONTEXT)})


FORM = ToyForm()
