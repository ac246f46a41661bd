"""The memory that a process needs, watched from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from et_pipeline.host import anonymous_bytes

SAMPLE_S = 0.05


def watch_memory(pid: int) -> Callable[[], int]:
    """Sample a process's anonymous memory until it ends; the result is a function that gives the peak in bytes.

    Weights are read through mapped files, whose pages count as resident although the system takes them back at need;
    what has to fit is the anonymous part. 0 where the system does not tell them apart (anywhere but Linux).
    """
    peak = 0

    def watch() -> None:
        nonlocal peak
        while (size := anonymous_bytes(pid)) is not None:
            peak = max(peak, size)
            time.sleep(SAMPLE_S)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def result() -> int:
        thread.join()
        return peak

    return result
