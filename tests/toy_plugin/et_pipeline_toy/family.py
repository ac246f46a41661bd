"""Granite, which has Llama's tensors and a tied head."""

from __future__ import annotations

from typing import Any

from et_pipeline.architecture import Family


def adapt(model: Any) -> None:
    """Leave a mark."""
    model.adapted_by = "toy"


GRANITE = Family(tied=True, mlp_bias="mlp_bias", windowed=False, mixed=False, adapt=adapt)
