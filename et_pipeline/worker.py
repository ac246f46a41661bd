"""One heavy stage in a process of its own: its memory is given back, its cost is known, a native crash is an error.

`run_stage` is the parent's side, `main` the child's. The child reads its request from standard input, reports as
JSON lines on a pipe whose number is its argument, and ends itself as soon as its parent is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from et_pipeline.errors import EXIT_USER, StageError, UserError
from et_pipeline.upstream.yaml_parser import quick_yaml

Tick = Callable[[int, int], None]
"""Progress of a stage: (done, total)."""


# Torch's allocator and the C library's words for it; both come as other errors than MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|Cannot allocate memory|bad_alloc")
DISK_FULL_BYTES = 1 << 20
SAMPLE_S = 0.05


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
    """Run `module.run` in a child process.

    Args:
        module: the stage's module, `et_pipeline.stages.<name>`.
        inputs: folders that the stage reads.
        out: empty folder that the stage fills.
        config: the settings that it reads, by parameter name.
        seed: of every random generator in the child.
        log_file: takes all that the child and its libraries print.
        tick: called with the child's progress.

    Returns:
        The stage's figures, and its cost: wall_s, cpu_s, peak_rss_bytes (without mapped files).

    Raises:
        UserError: raised by the stage.
        StageCrash: it ended in any other way than by returning.
    """
    request = {
        "module": module,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "out": str(out),
        "config": {name: value.model_dump_json() for name, value in config.items()},
        "seed": seed,
    }
    read_end, write_end = os.pipe()
    started = time.monotonic()
    with log_file.open("ab") as noise:
        child = subprocess.Popen(
            [sys.executable, "-m", "et_pipeline.worker", str(write_end)],
            stdin=subprocess.PIPE,
            stdout=noise,
            stderr=noise,
            pass_fds=(write_end,),
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sets must have one order, or the same model gives other bytes
        )
    os.close(write_end)
    assert child.stdin is not None
    peak = watch_memory(child.pid)
    figures: dict[str, Any] | None = None
    mistake: UserError | None = None
    try:
        # The pipe stays open: its end tells the child that we are gone.
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        with os.fdopen(read_end) as events:
            for line in events:
                event = json.loads(line)
                if "tick" in event:
                    tick(*event["tick"])
                figures = event.get("figures", figures)
                if "mistake" in event:
                    mistake = (StageError if event.get("logged") else UserError)(event["mistake"])
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        child.stdin.close()
    if mistake is not None:
        raise mistake
    if child.returncode != 0 or figures is None:
        ending = _ending(child.returncode)
        message = f"{module} {ending}; {log_file} ends with:\n{_tail(log_file)}"
        # A Python exception ends in 1; native code that gives up chooses other codes.
        raise StageCrash(message) if child.returncode in (0, 1) else StageKilled(message, ending)
    return figures, {
        "wall_s": round(time.monotonic() - started, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_bytes": peak() or usage.ru_maxrss * 1024,
    }


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


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def main() -> None:
    """Run the stage that the request on standard input names."""
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    last = 0.0

    def tick(done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > 0.1:
            last = time.monotonic()
            say(tick=[done, total])

    with quick_yaml():
        run = importlib.import_module(request["module"]).run
    kinds = typing.get_type_hints(run)
    config = {name: TypeAdapter(kinds[name]).validate_json(text) for name, text in request["config"].items()}
    inputs = {name: Path(path) for name, path in request["inputs"].items()}
    import torch  # every heavy stage needs it; the seed must be set after import and before the stage

    torch.manual_seed(request["seed"])
    try:
        say(figures=run(inputs, Path(request["out"]), tick, **config))
    except UserError as error:
        say(mistake=str(error), logged=isinstance(error, StageError))
        sys.exit(EXIT_USER)
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            traceback.print_exc()
            stage = request["module"].rpartition(".")[2]
            say(
                mistake=f"stage {stage} ran out of memory; close other programs, or use a machine with more",
                logged=True,
            )
            raise SystemExit(EXIT_USER) from error
        # Libraries report a full disk in many ways; the disk itself is asked.
        if shutil.disk_usage(request["out"]).free > DISK_FULL_BYTES:
            raise
        cache = Path(request["out"]).parents[1]  # <cache>/<stage>/<key>.tmp
        say(mistake=f"no space left on the disk of paths.cache={cache}; free some, or choose another one")
        raise SystemExit(EXIT_USER) from error


def _end_with_parent() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock would trouble the interpreter's end
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
