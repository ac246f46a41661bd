"""`et-bundle`: look into a bundle, check it, talk to it, time it, pack it, publish it, give it to a phone."""

from __future__ import annotations

import logging
import signal
import sys
from typing import NoReturn

import typer

from et_pipeline.cli.bundle import (
    adapters,
    add_speed,
    bench,
    chat,
    embed,
    evaluate,
    inspect,
    pack,
    publish,
    pull,
    push,
    verify,
)
from et_pipeline.cli.bundle.terminal import Notes, printable
from et_pipeline.errors import EXIT_GATE, EXIT_USER, GateError, UserError

app = typer.Typer(
    help="Look into a bundle, check it, talk to it, time it, pack it, publish it, give it to a phone.\n\n"
    "A bundle is what et-pipeline makes for a phone: a folder, or one .zip, with ExecuTorch programs (.pte), the "
    "tokenizer and manifest.json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(inspect.inspect)
app.command()(verify.verify)
app.command()(chat.chat)
app.command()(bench.bench)
app.command()(embed.embed)
app.command("eval")(evaluate.evaluate)
app.command()(add_speed.add_speed)
app.command()(push.push)
app.add_typer(adapters.app, name="adapters")
app.command("zip")(pack.pack)
app.command()(publish.publish)
app.command()(pull.pull)


_NOTES = Notes()


def main() -> NoReturn:
    """The console entry point: errors become one sentence and an exit code, except bugs of ours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary folders are removed
    logging.getLogger("et_pipeline").addHandler(_NOTES)
    try:
        app()
    except UserError as error:
        _fail(error, EXIT_USER)
    except GateError as error:
        _fail(error, EXIT_GATE)
    sys.exit(0)


def _fail(error: Exception, code: int) -> NoReturn:
    sys.stderr.write(printable(" ".join(str(error).split())) + "\n")
    sys.exit(code)
