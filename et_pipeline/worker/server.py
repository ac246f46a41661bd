"""A process that has imported what stages use, and forks one for each: imports cost more than a small model's stages.

`fork` is the caller's side, in the process of a run or of a stage; `main` the server's. It computes nothing and has one
thread when it forks, so what it forks is sound. It ends when the process that started it is gone and no stage is left.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

from et_pipeline.upstream.yaml_parser import quick_yaml
from et_pipeline.worker import stage

# What stages of a common run import themselves, or their libraries when they are first used.
PRELOAD = (
    "et_pipeline.stages.acquire",
    "et_pipeline.stages.quantize",
    "et_pipeline.stages.export",
    "et_pipeline.stages.lower",
    "et_pipeline.stages.verify",
    "et_pipeline.stages.measure",
    "et_pipeline.models.decoder",
    "et_pipeline.quantization.calibrated",
    "transformers.models.llama.modeling_llama",
    "executorch.exir",
    "executorch.backends.xnnpack.partition.xnnpack_partitioner",
)

# Libraries read variables of these names while they are imported.
_READ_AT_IMPORT = (
    *("CUDA_", "HF_", "HOME", "KMP_", "LD_", "MKL_", "OMP_", "PYTORCH_"),
    *("TOKENIZERS_", "TORCH", "TRANSFORMERS_", "XDG_"),
)

_starting = threading.Lock()
_server: _Server | None = None


@dataclass
class _Server:
    """What a process knows of the server: the socket that takes orders, how it was started, whether it has forked."""

    orders: socket.socket
    process: subprocess.Popen[bytes] | None  # None in a stage, which has inherited the socket
    environment: dict[str, str]
    answered: bool = False


class Dead(Exception):
    """There is no server, and none can be started."""


class Forked(NamedTuple):
    """A stage's process; the server tells its end."""

    pid: int
    answers: BinaryIO

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int | None:
        """Wait for its end: the code as of subprocess, or None where the server was killed before it could tell."""
        line = self.answers.readline()
        self.answers.close()
        return int(line) if line else None


def fork(request: int, events: int, log: int) -> Forked:
    """Have a stage's process made.

    Args:
        request: end of a pipe that it reads its request from; when that is closed at the other end, it ends itself.
        events: end of a pipe that it reports to.
        log: a file that takes all that it prints.

    Raises:
        Dead: the server does not start.
    """
    failed, reason = None, ""
    for _ in range(2):  # a server that was killed since is found out by asking it
        read_end, told = os.pipe()
        answers = os.fdopen(read_end, "rb")
        try:
            server = _get(log, failed)
            failed = server
            socket.send_fds(server.orders, [b"stage"], [request, events, log, told])
        except OSError as error:
            reason = f" ({error})"
        finally:
            os.close(told)
        if line := answers.readline():
            server.answered = True
            return Forked(int(line), answers)
        answers.close()
    raise Dead(f"the server of stages does not start{reason}")


def _get(log: int, failed: _Server | None) -> _Server:
    """The server of this process, started if there is none that fits; not the one that has failed."""
    global _server
    with _starting:
        environment = {name: value for name, value in os.environ.items() if name.startswith(_READ_AT_IMPORT)}
        found = _server
        if found is not None and (found.process is None or (found is not failed and found.environment == environment)):
            return found
        _let_go()
        _server = _start(environment, log)
        return _server


def _start(environment: dict[str, str], log: int) -> _Server:
    orders, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with taken:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()", str(orders.fileno()), str(taken.fileno())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(orders.fileno(), taken.fileno()),
            env=stage.environment(),
        )
    return _Server(orders, process, environment)


@atexit.register
def _let_go() -> None:
    """Have the server end as soon as its last stage has; nobody waits for it.

    One that still imports hears of nothing, and has no stage.
    """
    global _server
    if _server is not None and _server.process is not None:
        if not _server.answered:
            _server.process.kill()
        assert _server.process.stdin is not None
        _server.process.stdin.close()
        _server.orders.close()
        _server.process.returncode = 0  # or Python warns that it still runs
    _server = None


def main() -> None:
    """Serve until standard input is closed and the last stage has ended."""
    global _server
    orders, taken = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the run decides
    with quick_yaml():
        for name in PRELOAD:
            importlib.import_module(name)
    _server = _Server(orders, None, {})
    gc.collect()
    gc.freeze()  # pages that nobody writes to stay shared
    sys.stdout.flush()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  so that the first run's log can be removed
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    sources: list[int | socket.socket] = [0, taken, ended]
    while told or 0 in sources:
        ready, _, _ = select.select(sources, [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_ends(told)
        if taken in ready:
            _, (request, events, log, answer), _, _ = socket.recv_fds(taken, 16, 4)
            pid = os.fork()
            if pid == 0:
                others = [taken.detach(), ended, wake, answer, *told.values()]
                stage.live(partial(_become_stage, request, events, log, others))
            for number in (request, events, log):
                os.close(number)
            told[pid] = answer
            with contextlib.suppress(BrokenPipeError):
                os.write(answer, b"%d\n" % pid)
        if 0 in ready:
            sources.remove(0)


def _tell_ends(told: dict[int, int]) -> None:
    """Tell those who wait which of the stages have ended."""
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with contextlib.suppress(BrokenPipeError), os.fdopen(told.pop(pid), "w", encoding="utf-8") as answer:
            answer.write(str(os.waitstatus_to_exitcode(status)))


def _become_stage(request: int, events: int, log: int, others: list[int]) -> int:
    """In the forked process: run the stage; returns the exit code."""
    atexit._clear()  # what the server's libraries do at its end is not this process's business
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (*others, 0):
        os.close(number)
    os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free: standard input
    for place in (1, 2):
        os.dup2(log, place)
    os.close(log)
    return stage.main(request, events)
