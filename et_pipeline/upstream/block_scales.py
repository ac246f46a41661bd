"""Scales of blocks (LPBQ) are rounded as Qualcomm's compiler does, before weights are rounded by them.

It keeps a block's scale as one of 16 multiples of a sixteenth of its channel's largest. executorch 1.5.1 rounds weights
by the exact scale and leaves the rest to the compiler, so that the program differs from the eager model. To go when its
observer gives scales that the compiler keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def block_scales_as_compiled() -> Iterator[None]:
    """Within the context; see above."""
    from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver

    exact = PerBlockParamObserver.calculate_qparams

    def rounded(self: Any) -> tuple[Any, Any]:
        scales, zero_points = exact(self)
        rows = scales.reshape(len(scales), -1)  # [output channels, blocks]
        step = rows.amax(1, keepdim=True) / self.num_steps
        return ((rows / step).round().clamp(1, self.num_steps) * step).reshape(scales.shape), zero_points

    with mock.patch.object(PerBlockParamObserver, "calculate_qparams", rounded):
        yield
