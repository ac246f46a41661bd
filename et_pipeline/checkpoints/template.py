"""A checkpoint's chat template, a stranger's program: read from its files, and compiled by a process with limits."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime
from functools import lru_cache
from logging.handlers import BufferingHandler
from typing import Any

from et_pipeline import host
from et_pipeline.chat_template import PLAIN, ChatFormat, Thinking
from et_pipeline.checkpoints import template_compiler
from et_pipeline.checkpoints.folder import TOKENS, Folder
from et_pipeline.checkpoints.template_compiler import (
    MOST_CHARACTERS,
    TooMuchText,
    compile_template,
    compile_thinking,
)
from et_pipeline.errors import UserError

log = logging.getLogger(__name__)

# Of a template's process. A usual one takes half a second and 40 MiB.
SECONDS = 10  # of a processor
WAIT_SECONDS = 60  # by the clock: on a busy computer a process gets a part of one
MEMORY_BYTES = 1 << 30
BEYOND = 77  # exit code


def load_chat_format(folder: Folder) -> ChatFormat:
    """The chat format of a checkpoint; `PLAIN` if it has no chat template.

    The template is a stranger's program: it is rendered in a process of its own, with limits.

    Raises:
        UserError: a file is broken, or as `compile_template`; or the template goes beyond a limit.
    """
    answer = _compiled(folder)
    if answer is None:
        return PLAIN
    for warning in answer["warnings"]:
        log.warning("%s", warning)
    return ChatFormat.model_validate(answer["format"])


def load_thinking(folder: Folder) -> Thinking | None:
    """The switch of a checkpoint's chat template for thinking, if it has one.

    Raises:
        UserError: as `load_chat_format`.
    """
    answer = _compiled(folder)
    if answer is None or answer["thinking"] is None:
        return None
    return Thinking.model_validate(answer["thinking"])


def _compiled(folder: Folder) -> dict[str, Any] | None:
    """What the child says of a checkpoint's template; None if there is none."""
    template, special_tokens = _read_template(folder)
    if template is None:
        return None
    if len(template) > MOST_CHARACTERS:
        raise UserError(
            f"{folder.path}: its chat template has {len(template)} characters, and {MOST_CHARACTERS} are read"
        )
    request = json.dumps({"template": template, "special_tokens": special_tokens})
    answer = _in_a_child(request, str(folder.path))
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return answer


@lru_cache(maxsize=64)
def _in_a_child(request: str, where: str) -> dict[str, Any]:
    """Compile a template in another process, which ends at a limit of time or memory."""
    command = [sys.executable, "-m", __name__]
    plain = "give the checkpoint a plain one in chat_template.jinja"
    beyond = (
        f"{where}: its chat template takes more than {SECONDS} s of a processor, {MEMORY_BYTES >> 20} MiB or "
        f"{MOST_CHARACTERS} characters for a short conversation; {plain}"
    )
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, encoding="utf-8", timeout=WAIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{where}: its chat template was not done with a short conversation in {WAIT_SECONDS} s by the clock; try "
            f"again when this computer is less busy, or {plain}"
        ) from error
    if done.returncode < 0 or done.returncode == BEYOND:  # by a signal: the limit of processor time, or a crash
        raise UserError(beyond)
    if done.returncode != 0:
        raise RuntimeError(f"compiling {where}'s chat template failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """The child's side: a request on standard input, the chat format or what is wrong on standard output."""
    request, now = json.load(sys.stdin), datetime.now()
    host.limit(SECONDS, MEMORY_BYTES)
    heard = BufferingHandler(1000)
    template_compiler.log.addHandler(heard)
    answer: dict[str, Any] = {}
    try:
        usual = compile_template(**request, now=now)
        thinking = compile_thinking(**request, usual=usual, now=now)
        answer = {"format": usual.model_dump(), "thinking": None if thinking is None else thinking.model_dump()}
    except UserError as error:
        answer["mistake"] = str(error)
    except (MemoryError, RecursionError, TooMuchText):
        sys.exit(BEYOND)
    warnings = list(dict.fromkeys(record.getMessage() for record in heard.buffer))
    json.dump({**answer, "warnings": warnings}, sys.stdout)


def _read_template(folder: Folder) -> tuple[str | None, dict[str, str]]:
    """The template and the special tokens of a checkpoint folder."""
    config = folder.settings("special_tokens_map.json") | folder.tokenizer_config
    tokens = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokens[key] = text
    path = folder.path / "chat_template.jinja"
    try:
        template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error})") from error
    if isinstance(template, list):  # several named templates
        named = [entry for entry in template if isinstance(entry, dict) and {"name", "template"} <= entry.keys()]
        names = [entry["name"] for entry in named]
        if "default" not in names:
            raise UserError(
                f"{folder.path / TOKENS} has a list of chat templates, none of them called default; give "
                f"the one for a conversation that name (there are {', '.join(map(str, names)) or 'none'})"
            )
        template = named[names.index("default")]["template"]
    if template is not None and not isinstance(template, str):
        raise UserError(
            f"{folder.path / TOKENS} has a chat_template of type {type(template).__name__}, expected a text"
        )
    if template and any("\ud800" <= letter <= "\udfff" for letter in template):
        raise UserError(f"{folder.path / TOKENS} has a chat_template with half a character in it")
    return template or None, tokens


if __name__ == "__main__":
    main()
