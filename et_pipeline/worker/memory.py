"""The memory that a process needs, watched from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_S = 0.05


def watch_memory(pid: int) -> Callable[[], int]:
    """Sample a process's anonymous memory until it ends; the result is a function that gives the peak in bytes.

    Weights are read through mapped files, whose pages count as resident although the system takes them back at need;
    what has to fit is the anonymous part. 0 where the system does not tell them apart (anywhere but Linux).
    """
    status = Path(f"/proc/{pid}/status")
    peak = 0

    def watch() -> None:
        nonlocal peak
        while True:
            try:
                lines = status.read_text().splitlines()
            except OSError:  # it is gone, or there is no /proc
                return
            sizes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
            if not sizes:  # it has ended and waits to be asked for its code
                return
            peak = max(peak, sizes[0] * 1024)
            time.sleep(SAMPLE_S)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def result() -> int:
        thread.join()
        return peak

    return result
