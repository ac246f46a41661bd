"""What quantizing does to weights that a checkpoint holds quantized already."""

from __future__ import annotations

from typing import Any

import torch

from et_pipeline.checkpoints.prequantized.weight import floats

BLOCK_WEIGHTS = 1 << 20  # compared at a time


class Requantized:
    """What became of weights that a checkpoint held quantized: whether their integers stayed, and what that cost."""

    def __init__(self) -> None:
        # Count of weights, sum of squared errors, sum of squares; by whether the integers stayed.
        self._sums = {kept: [0, 0.0, 0.0] for kept in (True, False)}

    def add(self, before: Any, after: Any, stayed: bool) -> None:
        """Count a weight of the checkpoint, [outputs, inputs], and what the recipe has made of it.

        Args:
            before: as it was read.
            after: as it is written.
            stayed: whether the recipe took the integers; those that `_turn` could not turn did not stay.
        """
        step = max(1, BLOCK_WEIGHTS // before.shape[1])
        for start in range(0, len(before), step):
            rows = slice(start, start + step)
            was = floats(before, rows)
            missed = floats(after, rows) - was
            same = torch.zeros_like(was, dtype=torch.bool)
            if stayed:
                same = before.qdata[rows].abs() == after.qdata[rows].abs()
            for kept, chosen in ((True, same), (False, ~same)):
                sums = self._sums[kept]
                sums[0] += int(chosen.sum())
                for at, values in ((1, missed), (2, was)):
                    sums[at] += float((values.square() * chosen).sum(dtype=torch.float64))

    def figures(self) -> dict[str, Any]:
        """Counts of weights, and errors relative to the weights (roots of the sums of squares); {} without any."""
        if not any(count for count, _, _ in self._sums.values()):
            return {}
        return {
            name: {"weights": count, "error": (missed / total) ** 0.5 if total else 0.0}
            for name, (count, missed, total) in (("kept", self._sums[True]), ("requantized", self._sums[False]))
        }
