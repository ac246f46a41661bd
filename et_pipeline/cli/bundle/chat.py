"""`et-bundle chat`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import PathArgument, ThreadsOption
from et_pipeline.cli.bundle.terminal import console, note, printable
from et_pipeline.cli.paths import named
from et_pipeline.errors import EXIT_USER
from et_pipeline.host import edit_lines

if TYPE_CHECKING:
    from et_pipeline.runtime.chat import ChatSession


def chat(
    path: PathArgument,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt instead of the bundle's own.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0 answers the same every time; higher varies more. Default: the bundle's own."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Talk to the model with this adapter.", show_default=False)
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            help="Whether the model thinks before it answers, where its chat template has a switch for that.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    keep_packed: Annotated[
        bool, typer.Option(help="Keep a large model's weights as this processor wants them, to load fast next time.")
    ] = True,
    cache: Annotated[
        Path,
        typer.Option(
            parser=named("--cache"), envvar="ET_PIPELINE_CACHE", metavar="FOLDER", help="Where they are kept."
        ),
    ] = Path("~/.cache/et_pipeline"),
) -> None:
    """Talk to the model of a bundle in the terminal.

    /reset begins a new chat, /quit or Ctrl-D ends, Ctrl-C stops an answer. With piped input each line is a message;
    exit code 2: one was too long.
    """
    import torch

    torch.set_num_threads(1)  # those that help to sample a token would wait busily while the runtime computes the next
    with bundles.open_bundle(path, threads=threads, packed=cache if keep_packed else None) as bundle:
        seed = int.from_bytes(os.urandom(4))
        session = bundle.session(system=system, temperature=temperature, seed=seed, adapter=adapter, thinking=thinking)
        form = bundle.manifest.chat
        prompted = bool(form and form.system_prompt if system is None else system)
        if form and thinking is not None and not form.thinking_changes_text(system=prompted):
            here = f"with{'' if prompted else 'out'} a system prompt this model's chat template gives one text for both"
            note(f"--think and --no-think change nothing here: {here}.")
        if not _talk(session, bundle.manifest.what.name, max_new_tokens):
            raise typer.Exit(EXIT_USER)


def _talk(session: ChatSession, name: str, max_new_tokens: int) -> bool:
    """The terminal conversation: reads messages, shows answers; returns whether a script has all of them."""
    from et_pipeline.runtime.chat import ContextFullError

    terminal, all_answered = sys.stdin.isatty() and sys.stdout.isatty(), True
    if terminal:
        console().print(Text(f"{name} answers. /reset begins a new chat, /quit ends, Ctrl-C stops an answer.", "dim"))
    for message in _messages(terminal):
        if message == "/quit":
            break
        if message == "/reset":
            session.reset()
            note("New chat.")
            continue
        if not message:
            continue
        try:
            try:
                _show_answer(session, message, max_new_tokens)
            except ContextFullError as full:
                if session.is_new:
                    raise
                note(f"The chat is full: {full}. A new chat begins with your message.")
                session.reset()
                _show_answer(session, message, max_new_tokens)
        except ContextFullError as too_long:
            note(f"This message is too long for the model: {too_long}.")
            all_answered = terminal  # who types has seen it; a script looks at the exit code
            continue
        if session.last and session.last.end == "context":
            note("The chat is full: the answer was cut off. A new chat begins with your next message.")
            session.reset()
        if terminal and (last := session.last):
            figures = f"{last.tokens} tokens, first after {last.ttft_s * 1000:.0f} ms, {last.decode_tok_s:.1f} tok/s"
            console().print(Text(figures, "dim"))
    return all_answered


def _messages(terminal: bool) -> Iterator[str]:
    """What the user types, line by line, until the end of input."""
    if not terminal:
        for line in sys.stdin:
            yield line.strip()
        return
    edit_lines()
    while True:
        try:
            yield input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return


def _show_answer(session: ChatSession, message: str, max_new_tokens: int) -> None:
    pieces = session.ask(message, max_new_tokens)
    try:
        for piece in pieces:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()
    sys.stdout.write("\n")
    sys.stdout.flush()
