"""The standard streams of a command: there although closed, and not a fault of ours where nobody takes what is said."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from et_pipeline.errors import EXIT_USER

_UNREAD = 141  # as a command that the signal ended


class _Output(io.FileIO):
    """Ends the command where it cannot be written.

    By `SystemExit`, as libraries have ways of their own with an `OSError`, and a disk that fills up while a stage
    writes looks the same.
    """

    def write(self, data: Any, /) -> int:
        """See `io.FileIO`."""
        try:
            return super().write(data)
        except OSError as error:
            # What is left goes nowhere, or Python would try again at its end, and have a word to say about it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno == errno.EPIPE:
                raise SystemExit(_UNREAD) from error
            if self.fileno() == 1:  # of standard error there is nowhere to tell
                words = f"standard output cannot be written: {error.strerror}; send it elsewhere, what is made stays"
                sys.stderr.write(words + "\n")
            raise SystemExit(EXIT_USER) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """Have escapes for what the terminal's character set lacks: no reason to fail at the end of hours of work.

    And take what is no text in it for unknown characters. Who reads no longer, as `head`, ends the command without a
    word; a full disk does with a sentence.
    """
    _fill_closed()
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:  # nobody has put others there
        sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _fill_closed() -> None:
    """Open what was closed, as by `>&-`: a file that is opened later would get its number, and libraries' words."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _guarded(stream: Any) -> Any:
    """The same stream through `_Output`; a terminal of Windows' own kind stays as it is."""
    if not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )
