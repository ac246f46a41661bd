"""Layers that read an earlier layer's keys and values, and write none: only the last token need go through them.

They stand at the end, so what they would make of the other tokens of a prompt is used by nobody: a third to a half of
the layers of Gemma 3n and Gemma 4 are spared while a prompt is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from et_pipeline import gemma
from et_pipeline.models.families.gemma3n import Gemma3n


class LateLayers:
    """How a decoder's model gives the last token alone to its late layers, if it has any."""

    def __init__(self, decoder: Any) -> None:
        """Look at what family it is."""
        kind = decoder.config.model_type
        self.gemma3n = Gemma3n(decoder) if kind == gemma.GEMMA3N else None
        self.base = decoder.model.get_decoder() if kind == gemma.GEMMA4 else None

    @contextmanager
    def at(self) -> Iterator[None]:
        """Within the context a call of the model gives the last token's logits."""
        if self.gemma3n is not None:
            with self.gemma3n.at():
                yield
        elif self.base is not None:
            # transformers' own asks whether there is one token only, which would bind a program to the answer.
            with mock.patch.object(self.base, "_maybe_slice_kv_shared_inputs", _last):
                yield
        else:
            yield


def _last(
    hidden: torch.Tensor, per_layer: torch.Tensor | None, angles: dict[str, Any], masks: Any, *_: Any, **__: Any
) -> tuple[Any, ...]:
    last = slice(-1, None)
    angles = {kind: (cos[:, last], sin[:, last]) for kind, (cos, sin) in angles.items()}
    return hidden[:, last], None if per_layer is None else per_layer[:, last], angles, masks
