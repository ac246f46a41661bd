"""XNNPACK under another name, for one recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.backends import Support
from et_pipeline.backends.xnnpack import XnnpackBackend

if TYPE_CHECKING:
    from et_pipeline.settings import Quantization


class ToyBackend(XnnpackBackend):
    """The delegate."""

    def __init__(self, soc: str | None) -> None:
        self.soc = soc

    def supports(self, q: Quantization) -> Support:
        """Only what it was made for."""
        if q.scheme == "8da8w":
            return super().supports(q)
        return Support(ok=False, reason="toys have 8 bits", instead="use recipe=toy")
