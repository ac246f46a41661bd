"""What a chat looks like to a model: fixed text around the messages, put together without Jinja.

A checkpoint's chat template is a program (`checkpoints.template_compiler` makes this of it), and an Android app has no
Jinja. Two things are settled for every model, so that an app needs no flags for them:

* Every message is trimmed before it is used. Templates that trim do nothing more then, and for the others the outer
  white space of a message carries no meaning.
* A user or system message is not blank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from et_pipeline.errors import UserError

Message = Mapping[str, str]


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


class Thinking(BaseModel):
    """The switch that some templates have between thinking before the answer and answering at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    default: bool = Field(description="Whether the model is to think where chat.segments are used.")
    other: ChatFormat = Field(description="What to use in place of chat.segments for it the other way round.")


PLAIN = ChatFormat()


def stop_token(chat_format: ChatFormat, special_tokens: Iterable[str]) -> str | None:
    """The special token with which the template ends an answer, such as `<|im_end|>`; null if it uses none.

    Checkpoints often forget it in their list of end-of-text tokens, and the model then never stops.
    """
    text = chat_format.assistant_to_user.lstrip()
    return max((token for token in special_tokens if token and text.startswith(token)), key=len, default=None)
