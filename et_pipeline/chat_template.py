"""Turns a model's Jinja chat template into plain strings that an app can put together without Jinja.

A chat template is a program. An Android app has no Jinja, and most templates do something simple: fixed text between
the messages. This module finds that fixed text by rendering the template with marked messages and cutting at the
marks, then proves on many conversations that putting the pieces together gives exactly what Jinja gives.

Two things are settled for every model, so that an app needs no flags for them:

* Every message is trimmed before it is used. Templates that trim do nothing more then, and for the others the outer
  white space of a message carries no meaning.
* A user or system message is not blank.
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import jinja2

log = logging.getLogger(__name__)

# Of a template's process. A usual one takes half a second, 40 MiB and a few thousand characters.
SECONDS = 10
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 1 << 20
BEYOND = 77  # exit code

Message = Mapping[str, str]
Render = Callable[[Sequence[Message]], str]


class ChatFormat(BaseModel):
    """The fixed text around the messages of a chat. All strings empty: no template, the model continues plain text.

    First text that is fed: `start_to_user` + user + `user_to_assistant`, or with a system message
    `system_prefix` + system + `system_to_user` + user + `user_to_assistant`.
    Text that is fed for each further turn: `assistant_to_user` + user + `user_to_assistant`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    system_prefix: str = Field(default="", description="Text before the system message.")
    system_to_user: str = Field(default="", description="Text between the system message and the first user message.")
    start_to_user: str = Field(
        default="",
        description="Text before the first user message of a chat without system message, including the system "
        "prompt that the template puts in by itself, if any.",
    )
    user_to_assistant: str = Field(
        default="", description="Text after a user message that makes the model answer (the generation prompt)."
    )
    assistant_to_user: str = Field(
        default="",
        description="Text between an answer and the next user message. It begins with the stop token of the answer: "
        "that token was sampled but never fed, so it is fed with the next turn.",
    )
    user_to_past_assistant: str = Field(
        default="",
        description="Text between a user message and its answer when a whole past chat is fed again. Mostly equal to "
        "user_to_assistant; some templates put a space here that the model itself writes when it answers.",
    )
    supports_system: bool = Field(
        default=False, description="Whether a system message can be given. If false, do not use the system_ strings."
    )
    frozen_date: str | None = Field(
        default=None,
        description="Day (ISO 8601) that stands in the strings because the template prints today's date; null if it "
        "prints none.",
    )

    @property
    def is_plain(self) -> bool:
        """Whether there is no template: the model continues the text that it is given."""
        return self == PLAIN

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a whole chat, ready for the model to answer: what Jinja gives with a generation prompt.

        Args:
            messages: `{"role", "content"}` each: an optional system message, then user and assistant in turn, the
                last one from the user.
        """
        roles = [message["role"] for message in messages]
        texts = [message["content"].strip() for message in messages]
        if roles[:1] == ["system"]:
            if not self.supports_system:
                raise UserError(
                    "This model's chat template takes no system message: put the instruction into the first user "
                    "message."
                )
            text = self.system_prefix + texts[0] + self.system_to_user
            roles, texts = roles[1:], texts[1:]
        else:
            text = self.start_to_user
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise ValueError(f"user and assistant must take turns and the user comes last, got {roles}")
        for index in range(1, len(texts), 2):
            text += texts[index - 1] + self.user_to_past_assistant + texts[index] + self.assistant_to_user
        return text + texts[-1] + self.user_to_assistant

    def next_turn(self, user_text: str) -> str:
        """The text of one more user turn, when the KV cache already holds the chat up to the end of the last answer."""
        return self.assistant_to_user + user_text.strip() + self.user_to_assistant


PLAIN = ChatFormat()


def load_chat_format(
    folder: Path, variables: Mapping[str, Any] | None = None, now: datetime | None = None
) -> ChatFormat:
    """The chat format of a checkpoint folder in Hugging Face layout; `PLAIN` if it has no chat template.

    The template is a stranger's program: it is rendered in a process of its own, with limits.

    Raises:
        UserError: a file is broken, or as `compile_template`; or the template goes beyond a limit.
    """
    template, special_tokens = _read_template(folder)
    if template is None:
        return PLAIN
    if len(template) > MOST_CHARACTERS:
        raise UserError(f"{folder}: its chat template has {len(template)} characters, and {MOST_CHARACTERS} are read")
    request = json.dumps(
        {
            "template": template,
            "special_tokens": special_tokens,
            "variables": variables or {},
            "now": (now or datetime.now()).isoformat(),
        }
    )
    answer = _in_a_child(request, str(folder))
    for warning in answer["warnings"]:
        log.warning("%s", warning)
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return ChatFormat.model_validate(answer["format"])


@lru_cache(maxsize=64)
def _in_a_child(request: str, where: str) -> dict[str, Any]:
    """Compile a template in another process, which ends at a limit of time or memory."""
    command = [sys.executable, "-m", __name__]
    beyond = (
        f"{where}: its chat template takes more than {SECONDS} s, {MEMORY_BYTES >> 20} MiB or {MOST_CHARACTERS} "
        "characters for a short conversation; give the checkpoint a plain one in chat_template.jinja"
    )
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(beyond) from error
    if done.returncode < 0 or done.returncode == BEYOND:  # by a signal: the limit of processor time, or a crash
        raise UserError(beyond)
    if done.returncode != 0:
        raise RuntimeError(f"compiling {where}'s chat template failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """The child's side: a request on standard input, the chat format or what is wrong on standard output."""
    request = json.load(sys.stdin)
    limits = [(resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, 0)]
    with suppress(ValueError, OSError):  # macOS takes no limit of memory; there the time ends it
        for limit, value in limits:
            resource.setrlimit(limit, (value, value))
    heard = _Heard()
    log.addHandler(heard)
    answer: dict[str, Any] = {}
    try:
        made = compile_template(
            request["template"],
            request["special_tokens"],
            request["variables"],
            datetime.fromisoformat(request["now"]),
        )
        answer["format"] = made.model_dump()
    except UserError as error:
        answer["mistake"] = str(error)
    except (MemoryError, RecursionError, TooMuchText):
        sys.exit(BEYOND)
    json.dump({**answer, "warnings": heard.said}, sys.stdout)


class TooMuchText(Exception):
    """A template's output is longer than any conversation."""


class _Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def compile_template(
    template: str,
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> ChatFormat:
    """Compiles a Jinja chat template to plain strings and proves them equal to it.

    Args:
        template: The Jinja text, as in `chat_template.jinja`.
        special_tokens: `bos_token`, `eos_token`, … as the tokenizer's configuration has them.
        variables: Further variables that the template reads, such as `enable_thinking`.
        now: The time that a template sees which prints today's date; default now.

    Raises:
        UserError: The template fails, or it is no fixed text around the messages; names the first example.
    """
    now = now or datetime.now()
    asked_for_date = False

    def strftime_now(pattern: str) -> str:
        nonlocal asked_for_date
        asked_for_date = True
        return now.strftime(pattern)

    jinja_template = _parse(template)

    def render(messages: Sequence[Message]) -> str:
        # What transformers' apply_chat_template passes when it is given neither tools nor documents.
        pieces = jinja_template.generate(
            messages=[{"role": message["role"], "content": message["content"].strip()} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **{**special_tokens, "strftime_now": strftime_now, **(variables or {})},
        )
        text = ""
        for piece in pieces:
            text += piece
            if len(text) > MOST_CHARACTERS:
                raise TooMuchText
        return text

    system, user, answer, second = _marks(template)
    chat = (("user", user), ("assistant", answer), ("user", second))
    start_to_user, user_to_assistant = _cut(render, [("user", user)])
    _, user_to_past_assistant, assistant_to_user, _ = _cut(render, chat)
    without_system = ChatFormat(
        start_to_user=start_to_user,
        user_to_assistant=user_to_assistant,
        assistant_to_user=assistant_to_user,
        user_to_past_assistant=user_to_past_assistant,
    )
    words = _words(template, special_tokens)
    _prove(without_system, render, _conversations(words, with_system=False))

    result = without_system
    try:
        system_prefix, system_to_user, _ = _cut(render, [("system", system), ("user", user)])
        with_system = without_system.model_copy(
            update={"system_prefix": system_prefix, "system_to_user": system_to_user, "supports_system": True}
        )
        _prove(with_system, render, _conversations(words, with_system=True))
        result = with_system
    except UserError as error:
        # Not fatal: Gemma refuses system messages, Mistral moves them from turn to turn. `render` refuses them then.
        log.warning("No system message for this model: %s", error)
    return result.model_copy(update={"frozen_date": now.date().isoformat()}) if asked_for_date else result


def stop_token(chat_format: ChatFormat, special_tokens: Iterable[str]) -> str | None:
    """The special token with which the template ends an answer, such as `<|im_end|>`; null if it uses none.

    Checkpoints often forget it in their list of end-of-text tokens, and the model then never stops.
    """
    text = chat_format.assistant_to_user.lstrip()
    return max((token for token in special_tokens if token and text.startswith(token)), key=len, default=None)


def _read_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The template and the special tokens of a checkpoint folder."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            try:
                config |= json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f"{path} is no JSON object ({error}).") from error
    tokens = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokens[key] = text
    path = folder / "chat_template.jinja"
    try:
        template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error})") from error
    if isinstance(template, list):  # several named templates
        named = [entry for entry in template if isinstance(entry, dict) and {"name", "template"} <= entry.keys()]
        names = [entry["name"] for entry in named]
        if "default" not in names:
            raise UserError(
                f"{folder / 'tokenizer_config.json'} has a list of chat templates, none of them called default; give "
                f"the one for a conversation that name (there are {', '.join(map(str, names)) or 'none'})"
            )
        template = named[names.index("default")]["template"]
    if template is not None and not isinstance(template, str):
        raise UserError(
            f"{folder / 'tokenizer_config.json'} has a chat_template of type {type(template).__name__}, expected a text"
        )
    if template and any("\ud800" <= letter <= "\udfff" for letter in template):
        raise UserError(f"{folder / 'tokenizer_config.json'} has a chat_template with half a character in it")
    return template or None, tokens


def _parse(template: str) -> jinja2.Template:
    """The template as transformers parses it, without importing transformers. Templates are code from strangers."""
    # Imported here: reading a manifest needs ChatFormat, but no Jinja.
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks the answer for training; here it only opens a scope."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 reads this attribute of the class

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class PlainNamespace(Namespace):
        """A namespace without underscore names, which would lead to Python's internals."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a template may not set {name}")
            super().__setitem__(name, value)

    def namespace(**values: Any) -> PlainNamespace:
        result = PlainNamespace()
        for name, value in values.items():
            result[name] = value
        return result

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": namespace,
    }
    try:
        return environment.from_string(template)
    except jinja2.exceptions.TemplateError as error:
        raise UserError(f"The chat template cannot be parsed: {_one_line(error)}.") from error


def _marks(template: str) -> list[str]:
    """Four message texts that stand nowhere in the template."""
    stem = "mark"
    while stem in template:
        stem += "k"
    return [f"{stem}{number}z" for number in "1234"]


def _cut(render: Render, chat: Sequence[tuple[str, str]]) -> list[str]:
    """Renders a chat of marked messages and returns the text before, between and after them."""
    messages = [{"role": role, "content": text} for role, text in chat]
    rest, pieces = _run(render, messages), []
    for role, mark in chat:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise UserError(
                f"The chat template cannot be written as fixed text around the messages: of {_name(messages)}, the "
                f"{role} message '{mark}' does not appear exactly once and in its place."
            )
        pieces.append(before)
    return [*pieces, rest]


def _run(render: Render, messages: Sequence[Message]) -> str:
    try:
        return render(messages)
    except (MemoryError, RecursionError, TooMuchText):
        raise
    except Exception as error:  # the template is somebody else's program and may fail in any way
        raise UserError(f"The chat template fails on {_name(messages)}: {_one_line(error)}.") from error


def _words(template: str, special_tokens: Mapping[str, str]) -> str:
    """A message that holds the template's own words and tokens: a template may treat them apart."""
    quoted = [part for part in template.replace('"', "'").split("'")[1::2] if part.strip()]
    return " ".join(dict.fromkeys([*special_tokens.values(), *quoted, "user", "assistant", "system", "content"]))


def _conversations(words: str, with_system: bool) -> Iterator[list[Message]]:
    """Chats of one to four turns whose messages are awkward in every way that matters to a template.

    The template's own words are given as user and system messages only: a template may cut parts of past answers out
    (Qwen3 drops the thinking), but what the model has said stays in the KV cache.
    """
    awkward = [
        "Hello",
        "  spaces around  ",
        "\n\nlines\n\nwithin and around\n",
        "{{ braces }} {% if x %} {# comment #} {0} %s \\n \\",
        "Ünïcödé 中文 العربية हिन्दी",
        "emoji 👩‍👩‍👧 \U0001f1f2\U0001f1f2",
        "quotes ' \" ` <b>&amp;</b>",
        "tab\tand\u00a0no-break space",
        "7",
        "two\r\nlines\rof other systems",
        "a long message, of which nothing may be cut " * 80,
    ]
    for turns in range(1, 5):
        for shift in range(len(awkward) + 1):
            user = [*awkward, words]
            texts = [user[(shift + step) % len(user)] for step in range(turns)]
            answers = [awkward[(shift + step + 3) % len(awkward)] for step in range(turns - 1)]
            messages: list[Message] = []
            if with_system:
                messages.append({"role": "system", "content": user[(shift + 5) % len(user)]})
            for index, text in enumerate(texts):
                messages.append({"role": "user", "content": text})
                if index < len(answers):
                    messages.append({"role": "assistant", "content": answers[index]})
            yield messages
    if not with_system:  # a template that forgets the first of many messages
        many: list[Message] = [
            {"role": ("user", "assistant")[turn % 2], "content": f"message {turn}"} for turn in range(25)
        ]
        yield many


def _prove(chat_format: ChatFormat, render: Render, conversations: Iterable[Sequence[Message]]) -> None:
    """Compares the strings with the template on each conversation."""
    for messages in conversations:
        expected, found = _run(render, messages), chat_format.render(messages)
        if expected != found:
            pairs = zip(expected, found, strict=False)
            same = min(len(expected), len(found))
            at = next((index for index, (one, other) in enumerate(pairs) if one != other), same)
            raise UserError(
                f"The chat template cannot be written as fixed text around the messages: for {_name(messages)} it "
                f"gives {expected[at : at + 30]!r} at character {at} where fixed text gives {found[at : at + 30]!r}."
            )


def _name(messages: Sequence[Message]) -> str:
    """A conversation in a few words, for an error message."""
    roles = [message["role"] for message in messages]
    turns = roles.count("user")
    first = messages[0]["content"].strip()
    shown = first if len(first) <= 30 else first[:30] + "…"
    return (
        f"a chat of {turns} turn{'s' if turns > 1 else ''} with{'' if 'system' in roles else 'out'} a system message "
        f"(first message {shown!r})"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


if __name__ == "__main__":
    main()
