"""A process that is started for one stage, on systems where none can be forked: it imports the libraries itself.

It takes its request from standard input and gives its events on standard output; what it prints goes to the log.
"""

from __future__ import annotations

import subprocess
import sys
from typing import IO, NamedTuple

from et_pipeline.worker import stage


class Started(NamedTuple):
    """A stage's process."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """The ends of the pipes that take its request and give its events."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def wait(self) -> int:
        """Wait for its end: the code as of subprocess."""
        return self.process.wait()


def start(log: int) -> Started:
    """Start a stage's process; `log` is a file that takes all that it prints."""
    program = f"from {stage.__name__} import alone; alone()"
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", program]
    return Started(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=log, env=stage.environment()))
