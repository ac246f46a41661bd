"""How text, tables and figures are written to a terminal or a pipe."""

from __future__ import annotations

import codecs
import json
import logging
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Rows = Sequence[Sequence[str]]


def console() -> Console:
    """Standard output; a pipe is as wide as any line."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = 200  # nobody's window: do not break lines
    return made


def print_table(title: str, columns: Sequence[str], rows: Rows) -> None:
    """A table without lines, which reads the same in a terminal and in a file."""
    table = Table(
        title=Text(printable(title), "bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=any(columns),
        header_style="dim",
    )
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell), "red" if cell == "FAILED" else "") for cell in row))
    terminal = console()
    terminal.print(table)
    terminal.print()


def print_json(content: Any) -> None:
    """A JSON document, for other programs."""
    plain = codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8"
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=plain) + "\n")


def note(text: str) -> None:
    """A line about the work, apart from the answers: on stderr when the output is piped."""
    terminal = console()
    if terminal.is_terminal:
        terminal.print(Text(text, "yellow"))
    else:
        sys.stderr.write(text + "\n")


class Notes(logging.Handler):
    """Shows what the package logs as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `note`."""
        note(record.getMessage())


def printable(text: str) -> str:
    """Text without control characters: what a bundle or a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
