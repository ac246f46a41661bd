"""Turns a model's Jinja chat template into plain strings that an app can put together without Jinja.

Most templates do something simple: fixed text between the messages. This module finds that fixed text by rendering the
template with marked messages and cutting at the marks, then proves on many conversations that putting the pieces
together gives exactly what Jinja gives.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from et_pipeline.chat_template import ChatFormat, Message, Thinking
from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import jinja2

log = logging.getLogger(__name__)

MOST_CHARACTERS = 1 << 20  # of a conversation; a usual template takes a few thousand

SWITCHES = ("enable_thinking", "thinking")  # variables by which templates let a model think, or not

Render = Callable[[Sequence[Message]], str]


class TooMuchText(Exception):
    """A template's output is longer than any conversation."""


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

    render = _renderer(template, {**special_tokens, "strftime_now": strftime_now, **(variables or {})})
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


def compile_thinking(
    template: str, special_tokens: Mapping[str, str], usual: ChatFormat, now: datetime | None = None
) -> Thinking | None:
    """Finds a template's switch for thinking: a variable that makes another text of a chat.

    Args:
        template: The Jinja text.
        special_tokens: As for `compile_template`.
        usual: What that made of it without the variable.
        now: As for `compile_template`.

    Returns:
        None if it has no switch, or one that cannot be written as fixed text, which is logged.
    """
    for name in SWITCHES:
        if not re.search(rf"\b{name}\b", template):
            continue
        try:
            on, off = (compile_template(template, special_tokens, {name: value}, now) for value in (True, False))
        except UserError as error:
            log.warning("No switch for thinking, though the chat template reads %s: %s", name, error)
            continue
        if on == off:
            continue  # a word of its text
        if usual not in (on, off):
            log.warning("No switch for thinking: without %s the chat template gives a third text.", name)
            continue
        return Thinking(default=usual == on, other=off if usual == on else on)
    return None


def _renderer(template: str, values: Mapping[str, Any]) -> Render:
    """What transformers' apply_chat_template does when it is given neither tools nor documents."""
    parsed = _parse(template)

    def render(messages: Sequence[Message]) -> str:
        pieces = parsed.generate(
            messages=[{"role": message["role"], "content": message["content"].strip()} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **values,
        )
        text = ""
        for piece in pieces:
            text += piece
            if len(text) > MOST_CHARACTERS:
                raise TooMuchText
        return text

    return render


def _parse(template: str) -> jinja2.Template:
    """The template as transformers parses it, without importing transformers. Templates are code from strangers."""
    # Imported here: who has a template compiled by another process needs no Jinja.
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
