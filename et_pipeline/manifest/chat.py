"""How to talk to a model that answers, and what it is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from et_pipeline.chat_template import ChatFormat, Thinking
from et_pipeline.manifest.fields import Model


class Sampling(Model):
    """How the next token is chosen."""

    temperature: float = Field(default=0.0, ge=0, description="0: always the most probable token.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Only the most probable tokens that make up this share.")
    top_k: int = Field(default=0, ge=0, description="Only this many of the most probable tokens; 0: no limit.")
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Only tokens with at least this share of the most probable one's probability.",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        description="Before all that, the logits of tokens that were there before, in prompt or answer, are divided by "
        "this, those below 0 multiplied with it; also at temperature 0.",
    )


class Chat(Model):
    """How a conversation becomes the text that is fed, and when an answer ends."""

    segments: ChatFormat = Field(description="The fixed text around the messages; trim each message before use.")
    add_bos: bool = Field(
        default=False,
        description="Whether tokenizer.bos_id must be fed before the first text of a chat. True only for a model "
        "without chat template.",
    )
    stop_strings: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="Generation stops when one of these texts appears; it is not shown."
    )
    sampling: Sampling = Field(default=Sampling(), description="Sampling to begin with; the user may change it.")
    system_prompt: str | None = Field(default=None, description="System message to begin with; null: none.")
    thinking: Thinking | None = Field(
        default=None, description="The template's switch for thinking before the answer; null: it has none."
    )

    def segments_for(self, thinks: bool | None) -> ChatFormat | None:
        """The text around the messages for a model that is to think, or not; None as `thinks`: as it is by default.

        Returns:
            None where the template has no switch.
        """
        if thinks is None:
            return self.segments
        if self.thinking is None:
            return None
        return self.segments if thinks == self.thinking.default else self.thinking.other

    def thinking_changes_text(self, *, system: bool) -> bool:
        """Whether the switch for thinking makes another text of a chat.

        Some templates say it in a system message of their own, which is not there where another one is given.

        Args:
            system: Whether the chat has a system message.
        """
        if self.thinking is None:
            return False
        beginning = {"start_to_user"} if system else {"system_prefix", "system_to_user"}
        unused = {*beginning, "supports_system", "frozen_date"}
        return self.segments.model_dump(exclude=unused) != self.thinking.other.model_dump(exclude=unused)


class Task(Model):
    """One thing that the bundle is made for: a form that the app shows."""

    title: str = Field(description="Title to show.")
    template: str = Field(
        description="User message to send. '{text}' stands for what the user types, '{<name>}' for the choice of that "
        "name. Replace in one pass: what the user types may contain braces."
    )
    max_new_tokens: int = Field(ge=1, description="Longest answer, in tokens.")
    choices: dict[str, list[str]] = Field(default={}, description="Options that the user chooses from, by name.")
    disclaimer: str | None = Field(default=None, description="Text that must be shown with every answer.")

    def fill(self, text: str, choices: Mapping[str, str] | None = None) -> str:
        """The user message for a text and one choice per name (default: the first of each)."""
        values = {name: options[0] for name, options in self.choices.items()} | dict(choices or {}) | {"text": text}
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.template)


class Sample(Model):
    """An answer that the deployed program gave, for checking a copy of the bundle."""

    task: str = Field(description="Name of the task in 'tasks', which gives the length limit.")
    prompt: str = Field(description="The user message, after the task's template was filled in.")
    answer: str = Field(
        description="The answer at temperature 0 in a new chat with chat.system_prompt, trimmed. Another processor may "
        "round differently and so answer differently now and then."
    )
