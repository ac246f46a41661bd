"""A process that has imported what stages use, and forks one for each: imports cost more than a small model's stages.

`fork` is the caller's side, in the process of a run or of a stage; `main` the server's. It has one thread and computes
nothing, so what it forks is sound. It ends as soon as the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from typing import BinaryIO, NamedTuple

from et_pipeline.upstream.yaml_parser import quick_yaml
from et_pipeline.worker import stage

# What the stages of a common run import, found in `sys.modules` at the end of each.
PRELOAD = (
    "et_pipeline.stages.acquire",
    "et_pipeline.stages.quantize",
    "et_pipeline.stages.export",
    "et_pipeline.stages.lower",
    "et_pipeline.stages.verify",
    "et_pipeline.stages.measure",
)

# Libraries read variables of these names while they are imported.
_READ_AT_IMPORT = ("CUDA_", "HF_", "KMP_", "LD_", "MKL_", "OMP_", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_")

_starting = threading.Lock()
_server: _Server | None = None


class _Server(NamedTuple):
    """What a process knows of the server: the socket that takes orders, and how it was started."""

    orders: socket.socket
    process: subprocess.Popen[bytes] | None  # None in a stage, which has inherited the socket
    environment: dict[str, str]


class Dead(Exception):
    """There is no server, and none can be started."""


class Ended(NamedTuple):
    """How a stage's process ended."""

    code: int  # as of subprocess: a signal is negative
    cpu_s: float
    peak_rss_bytes: int


class Forked(NamedTuple):
    """A stage's process; the server tells its end."""

    pid: int
    answers: BinaryIO

    def wait(self) -> Ended:
        """Wait for its end."""
        line = self.answers.readline()
        self.answers.close()
        if not line:  # the server was killed, and has taken nobody along
            return Ended(-signal.SIGKILL, 0.0, 0)
        return Ended(**json.loads(line))


def fork(request: int, events: int, log: int) -> Forked:
    """Have a stage's process made.

    Args:
        request: end of a pipe that it reads its request from; when that is closed at the other end, it ends itself.
        events: end of a pipe that it reports to.
        log: a file that takes all that it prints.

    Raises:
        Dead: the server does not start.
    """
    for new in (False, True):  # a server that was killed since is found out by asking it
        read_end, told = os.pipe()
        answers = os.fdopen(read_end, "rb")
        with contextlib.suppress(OSError):
            socket.send_fds(_get(log, new).orders, [b"stage"], [request, events, log, told])
        os.close(told)
        if line := answers.readline():
            return Forked(int(line), answers)
        answers.close()
    raise Dead("the server of stages does not start")


def _get(log: int, new: bool) -> _Server:
    """The server of this process, started if there is none that fits."""
    global _server
    with _starting:
        environment = {name: value for name, value in os.environ.items() if name.startswith(_READ_AT_IMPORT)}
        if _server is None or (_server.process and (new or _server.environment != environment)):
            if _server is not None:
                _stop(_server)
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
            # Sets must have one order, or the same model gives other bytes.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"},
        )
    return _Server(orders, process, environment)


def _stop(server: _Server) -> None:
    assert server.process is not None
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.wait()
    server.orders.close()


def main() -> None:
    """Serve until standard input is closed."""
    global _server
    orders, taken = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    _server = _Server(orders, None, {})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the run decides
    with quick_yaml():
        for name in PRELOAD:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # pages that nobody writes to stay shared
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([taken, sys.stdin, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_ends(told)
        if taken in ready:
            _, (request, events, log, answer), _, _ = socket.recv_fds(taken, 16, 4)
            pid = os.fork()
            if pid == 0:
                _become_stage(request, events, log, [taken.detach(), ended, wake, answer, *told.values()])
            for number in (request, events, log):
                os.close(number)
            told[pid] = answer
            os.write(answer, b"%d\n" % pid)
        if sys.stdin in ready:
            return


def _tell_ends(told: dict[int, int]) -> None:
    """Tell those who wait which of the stages have ended."""
    while told:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        end = Ended(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        with contextlib.suppress(BrokenPipeError), os.fdopen(told.pop(pid), "w") as answer:
            answer.write(json.dumps(end._asdict()))


def _become_stage(request: int, events: int, log: int, others: list[int]) -> None:
    """In the forked process: run the stage and end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in others:
            os.close(number)
        for number, place in ((request, 0), (log, 1), (log, 2)):
            os.dup2(number, place)
        for number in (request, log):
            os.close(number)
        code = stage.main(events)
    except BaseException:
        traceback.print_exc()
    finally:
        stage.leave(code)
