"""A stage's own process: it reads its request from a pipe, and reports as JSON lines on another."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
import typing
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from et_pipeline import host
from et_pipeline.errors import EXIT_USER, StageError, UserError

# Torch's allocator and the C library's words for it; both come as other errors than MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|Cannot allocate memory|bad_alloc")
DISK_FULL_BYTES = 1 << 20


def environment() -> dict[str, str]:
    """What a process is started with that becomes a stage's, or forks them."""
    # Sets must have one order, or the same model gives other bytes.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}


def alone() -> None:
    """Be the process that `fresh` has started: the pipes are kept for requests and events, out of libraries' way."""
    request, events = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    live(lambda: main(request, events))


def live(work: Callable[[], int]) -> None:
    """End the process with the exit code that `work` returns."""
    code = 1
    try:
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def main(orders: int, pipe: int) -> int:
    """Run the stage that the request names; returns the exit code. The process ends when its caller is gone.

    Args:
        orders: end of a pipe that the request is read from.
        pipe: end of another that takes events.
    """
    events = os.fdopen(pipe, "w", buffering=1, encoding="utf-8")
    request = json.loads(_line(orders))
    threading.Thread(target=_end_with_caller, args=(orders,), daemon=True).start()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # looked up again
    sys.path[:] = request["path"]

    def say(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    last = 0.0

    def tick(done: int, total: int, *words: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > 0.1:
            last = time.monotonic()
            say(tick=[done, total, *words])

    run = importlib.import_module(request["module"]).run
    kinds = typing.get_type_hints(run)
    config = {name: TypeAdapter(kinds[name]).validate_json(text) for name, text in request["config"].items()}
    inputs = {name: Path(path) for name, path in request["inputs"].items()}
    import torch

    torch.manual_seed(request["seed"])
    try:
        figures = to_jsonable_python(run(inputs, Path(request["out"]), tick, **config))
        say(figures=figures, cpu_s=host.cpu_seconds(), peak_rss_bytes=host.peak_bytes())
    except UserError as error:
        say(mistake=str(error), logged=isinstance(error, StageError))
        return EXIT_USER
    except Exception as error:
        mistake = _mistake(error, request)
        if mistake is not None:
            say(mistake=str(mistake), logged=isinstance(mistake, StageError))
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        return 1 if mistake is None else EXIT_USER
    return 0


def _mistake(error: Exception, request: dict[str, typing.Any]) -> UserError | None:
    """What the user can do about an error that is not a fault of ours."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        stage = request["module"].rpartition(".")[2]
        return StageError(f"stage {stage} ran out of memory; close other programs, or use a machine with more")
    # Libraries report a full disk in many ways; the disk itself is asked.
    if shutil.disk_usage(request["out"]).free > DISK_FULL_BYTES:
        return None
    cache = Path(request["out"]).parents[1]  # <cache>/<stage>/<key>.tmp
    return UserError(f"no space left on the disk of paths.cache={cache}; free some, or choose another one")


def _leave(code: int) -> None:
    """End the process, with what libraries do at its end, but without taking it to pieces."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        host.flush()
    finally:
        os._exit(code)


def _line(pipe: int) -> bytes:
    """The first line that comes, and no byte more."""
    parts = []
    while (part := os.read(pipe, 1 << 16)) and not part.endswith(b"\n"):
        parts.append(part)
    return b"".join([*parts, part])


def _end_with_caller(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os._exit(1)
