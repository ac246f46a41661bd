"""One heavy stage in a process of its own: its memory is given back, its cost is known, a native crash is an error.

`run_stage` is the parent's side, `stage` the process's; `server` forks it, or `fresh` starts it where nothing can be
forked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from et_pipeline import host
from et_pipeline.errors import StageError, UserError
from et_pipeline.worker import fresh, server
from et_pipeline.worker.memory import watch_memory

Tick = Callable[..., None]
"""Progress of a stage: (done, total), and of a training a few words more."""


class StageCrash(Exception):
    """A stage's process ended with a fault of ours or of a native library; the message holds its last words."""


class StageKilled(StageCrash):
    """A signal or a native library ended a stage's process; `ending` says how."""

    def __init__(self, message: str, ending: str) -> None:
        super().__init__(message)
        self.ending = ending


def run_stage(
    module: str,
    inputs: Mapping[str, Path],
    out: Path,
    config: Mapping[str, BaseModel],
    seed: int,
    log_file: Path,
    tick: Tick,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run `module.run` in a process of its own.

    Args:
        module: the stage's module, `et_pipeline.stages.<name>`.
        inputs: folders that the stage reads.
        out: empty folder that the stage fills.
        config: the settings that it reads, by parameter name.
        seed: of every random generator in it.
        log_file: takes all that it and its libraries print.
        tick: called with its progress.

    Returns:
        The stage's figures, and its cost: wall_s, cpu_s, peak_rss_bytes (without mapped files).

    Raises:
        UserError: raised by the stage.
        StageCrash: it ended in any other way than by returning.
    """
    request = _request(module, inputs, out, config, seed)
    started = time.monotonic()
    process, orders, events = _start(log_file)
    peak = watch_memory(process.pid)
    try:
        done, mistake = _talk(orders, events, request, tick)
    except BaseException:
        process.kill()
        raise
    finally:
        code = process.wait()
        events.close()
        with contextlib.suppress(BrokenPipeError):
            orders.close()
    if mistake is not None:
        raise mistake
    if code or done is None:
        ending = _ending(code)
        message = f"{module} {ending}; {log_file} ends with:\n{_tail(log_file)}"
        # A Python exception ends in 1; native code that gives up chooses other codes.
        raise StageCrash(message) if code in (0, 1) else StageKilled(message, ending)
    return done["figures"], {
        "wall_s": round(time.monotonic() - started, 2),
        "cpu_s": round(done["cpu_s"], 2),
        "peak_rss_bytes": peak() or done["peak_rss_bytes"],
    }


def _request(
    module: str, inputs: Mapping[str, Path], out: Path, config: Mapping[str, BaseModel], seed: int
) -> dict[str, Any]:
    return {
        "module": module,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "out": str(out),
        "config": {name: value.model_dump_json() for name, value in config.items()},
        "seed": seed,
        "folder": str(Path.cwd()),
        "environment": {**os.environ, "PYTHONHASHSEED": "0"},
        "path": sys.path,
    }


def _talk(
    orders: IO[bytes], events: IO[bytes], request: dict[str, Any], tick: Tick
) -> tuple[dict[str, Any] | None, UserError | None]:
    """Give a process its request; what it reports until it ends: figures and cost, or the mistake that ended it."""
    with contextlib.suppress(BrokenPipeError):  # it is gone already; its exit code says more
        orders.write(json.dumps(request).encode() + b"\n")
        orders.flush()  # not closed: the end of the pipe tells the process that we are gone
    done, mistake = None, None
    for line in events:
        event = json.loads(line)
        if "tick" in event:
            tick(*event["tick"])
        if "figures" in event:
            done = event
        if "mistake" in event:
            mistake = (StageError if event.get("logged") else UserError)(event["mistake"])
    return done, mistake


def _start(log_file: Path) -> tuple[server.Forked | fresh.Started, IO[bytes], IO[bytes]]:
    """A process that waits for its request; with the ends of the pipes that take it and that give its events."""
    if not host.forks():
        with log_file.open("ab") as log:
            started = fresh.start(log.fileno())
        return started, *started.pipes
    request, orders = os.pipe()
    events, reported = os.pipe()
    try:
        with log_file.open("ab") as log:
            process = server.fork(request, reported, log.fileno())
    except BaseException as error:
        os.close(orders)
        os.close(events)
        if not isinstance(error, server.Dead):
            raise
        raise StageCrash(f"{error}; {log_file} ends with:\n{_tail(log_file)}") from error
    finally:
        os.close(request)
        os.close(reported)
    return process, os.fdopen(orders, "wb"), os.fdopen(events, "rb")


def _ending(code: int | None) -> str:
    if code is None:
        return "was lost with the server that forked it, which was killed"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(errors="replace", encoding="utf-8").splitlines()[-lines:])
