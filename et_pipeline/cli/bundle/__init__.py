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
from et_pipeline.cli.bundle.options import example
from et_pipeline.cli.bundle.terminal import Notes, printable
from et_pipeline.cli.streams import standard_streams
from et_pipeline.errors import EXIT_GATE, EXIT_USER, GateError, UserError

app = typer.Typer(
    help="Look into a bundle, check it, talk to it, time it, pack it, publish it, give it to a phone.\n\n"
    "A bundle is what et-pipeline makes for a phone: a folder, or one .zip, with ExecuTorch programs (.pte), the "
    "tokenizer and manifest.json.",
    epilog=example("inspect BUNDLE"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(epilog=example("inspect BUNDLE"))(inspect.inspect)
app.command(epilog=example("verify BUNDLE"))(verify.verify)
app.command(epilog=example("chat BUNDLE --temperature 0"))(chat.chat)
app.command(epilog=example("bench BUNDLE --rounds 3"))(bench.bench)
app.command(epilog=example('embed bundles/all_minilm_l6_v2-8da4w-g32-xnnpack "a cat" "a kitten"'))(embed.embed)
app.command("eval", epilog=example("eval BUNDLE --tasks arc_easy --limit 20"))(evaluate.evaluate)
app.command(epilog=example("add-speed BUNDLE report.json"))(add_speed.add_speed)
app.command(epilog=example("push BUNDLE"))(push.push)
app.add_typer(adapters.app, name="adapters")
app.command("zip", epilog=example("zip BUNDLE tiny_assistant.zip"))(pack.pack)
app.command(epilog=example("publish BUNDLE you/tiny-assistant --dry-run"))(publish.publish)
app.command(epilog=example("pull you/tiny-assistant"))(pull.pull)


_NOTES = Notes()


def main() -> NoReturn:
    """The console entry point: errors become one sentence and an exit code, except bugs of ours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary folders are removed
    logging.getLogger("et_pipeline").addHandler(_NOTES)
    with standard_streams():
        try:
            app(prog_name="et-bundle")
        except UserError as error:
            _fail(error, EXIT_USER)
        except GateError as error:
            _fail(error, EXIT_GATE)
        sys.exit(0)


def _fail(error: Exception, code: int) -> NoReturn:
    sys.stderr.write(printable(" ".join(str(error).split())) + "\n")
    sys.exit(code)
