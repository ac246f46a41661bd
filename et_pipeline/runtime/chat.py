"""A conversation with a deployed program: what is fed, what is shown, when an answer ends.

Only the new turn is fed: what was said before lies in the KV cache. The same rules hold for the Android app.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from et_pipeline import manifest as bundle
from et_pipeline.chat_template import ChatFormat, Message
from et_pipeline.checkpoints.tokenizer.file import Form, normalize
from et_pipeline.errors import UserError

REPLACEMENT = "\ufffd"  # what a decoder puts for bytes that are no whole character
GREEDY = bundle.Sampling()


class Runnable(Protocol):
    """What a conversation needs of a `Program`."""

    @property
    def goes_back(self) -> bool:
        """Whether a sequence may go on from an earlier position."""

    def forward(self, tokens: Tensor, start: int) -> Tensor:
        """Feeds `[1, S]` token ids at a position; returns the logits `[V]` after the last."""

    def prefill(self, tokens: Tensor, start: int = 0) -> Tensor:
        """The same for a prompt of any length, in pieces."""


class ContextFullError(Exception):
    """A message does not fit into what is left of the context."""

    def __init__(self, needed: int, used: int, limit: int) -> None:
        super().__init__(f"the message takes {needed} tokens, and {used} of {limit} are used")


@dataclass(frozen=True)
class Answer:
    """What one answer took. `end`: why it ended."""

    text: str
    prompt_tokens: int
    tokens: int
    ttft_s: float
    decode_s: float
    end: Literal["stop", "length", "context", "interrupted"]

    @property
    def decode_tok_s(self) -> float:
        """Tokens per second after the first token; 0 if there was only one."""
        return (self.tokens - 1) / self.decode_s if self.tokens > 1 and self.decode_s > 0 else 0.0


def shown(text: str, stop_strings: Collection[str]) -> tuple[str, bool]:
    """The part of an unfinished answer that can be shown, and whether a stop string has ended it.

    What could be the beginning of a stop string, or of a character whose bytes are not all there, is held back.
    The stop string that is complete first counts.
    """
    found = [(at + len(stop), at) for stop in stop_strings if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)[1]], True
    text = text.rstrip(REPLACEMENT)
    held = 0
    for stop in stop_strings:
        for length in range(min(len(stop) - 1, len(text)), held, -1):
            if text.endswith(stop[:length]):
                held = length
                break
    return text[: len(text) - held], False


def sample(logits: Tensor, sampling: bundle.Sampling, generator: torch.Generator, before: Collection[int] = ()) -> int:
    """The next token id, with the definitions of transformers' logits processors and in their order.

    Args:
        logits: `[V]`.
        sampling: How to choose.
        generator: What is drawn with.
        before: The tokens so far, prompt and answer.
    """
    scores = logits.float()
    if sampling.repetition_penalty != 1 and before:
        seen, penalty = torch.tensor(sorted(set(before))), sampling.repetition_penalty
        found = scores[seen]
        scores = scores.index_copy(0, seen, torch.where(found < 0, found * penalty, found / penalty))
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores, ids = (scores / sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k:
        scores = scores[: sampling.top_k]
    probabilities = scores.softmax(-1)
    keep = probabilities.cumsum(-1) - probabilities < sampling.top_p  # always keeps the first
    keep &= probabilities >= sampling.min_p * probabilities[0]
    chosen = torch.multinomial(probabilities * keep, 1, generator=generator)
    return int(ids[chosen])


class ChatSession:
    """One conversation. `ask` yields an answer piece by piece; afterwards `last` tells what it took."""

    def __init__(
        self,
        program: Runnable,
        tokenizer: Tokenizer,
        segments: ChatFormat,
        max_context: int,
        stop_ids: Collection[int],
        *,
        stop_strings: Sequence[str] = (),
        first_ids: Sequence[int] = (),
        system_prompt: str | None = None,
        sampling: bundle.Sampling = GREEDY,
        seed: int = 0,
        history: Sequence[Message] = (),
        normalization: Form | None = None,
        lstrip: Sequence[str] = (),
        rstrip: Sequence[str] = (),
    ) -> None:
        """Makes an empty conversation.

        Args:
            program: The loaded program.
            tokenizer: Its tokenizer.
            segments: The fixed text around the messages.
            max_context: Length of the KV cache in tokens.
            stop_ids: Token ids that end an answer.
            stop_strings: Texts that end an answer.
            first_ids: Ids to feed before everything else: the begin-of-text token of a model without template.
            system_prompt: The system message, if any.
            sampling: How the next token is chosen.
            seed: Of the sampling.
            history: What user and assistant said before; fed with the first message.
            normalization: What is done to each text before the tokenizer gets it.
            lstrip: Tokens before which white space is left out then.
            rstrip: Tokens behind which it is.
        """
        self._program = program
        self._tokenizer = tokenizer
        self._segments = segments
        self._max_context = max_context
        self._stop_ids = frozenset(stop_ids)
        self._stop_strings = tuple(stop_strings)
        self._first_ids = list(first_ids)
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._before = [*system, *history]
        self._sampling = sampling
        self._normalized = partial(normalize, form=normalization, lstrip=lstrip, rstrip=rstrip)
        self._generator = torch.Generator().manual_seed(seed)
        self._ended = False
        self.last: Answer | None = None
        self.reset()

    @classmethod
    def of_bundle(
        cls,
        program: Runnable,
        tokenizer: Tokenizer,
        chat: bundle.Chat,
        info: bundle.Tokenizer,
        max_context: int,
        *,
        system_prompt: str | None = None,
        sampling: bundle.Sampling | None = None,
        seed: int = 0,
        history: Sequence[Message] = (),
    ) -> Self:
        """A conversation as a manifest describes it; system prompt and sampling can be given instead."""
        first_ids = [info.bos_id] if chat.add_bos and info.bos_id is not None else []
        return cls(
            program,
            tokenizer,
            chat.segments,
            max_context,
            info.eos_ids,
            stop_strings=chat.stop_strings,
            first_ids=first_ids,
            system_prompt=chat.system_prompt if system_prompt is None else system_prompt,
            sampling=sampling or chat.sampling,
            seed=seed,
            history=history,
            normalization=info.normalization,
            lstrip=info.lstrip,
            rstrip=info.rstrip,
        )

    @property
    def is_new(self) -> bool:
        """Whether nothing has been said yet."""
        return self._position == 0 and not self._pending

    def end(self) -> None:
        """Lets the program go, for another conversation to have it."""
        self._ended = True

    def reset(self) -> None:
        """Begins a new chat: nothing in the cache counts any more."""
        self._position = 0  # tokens in the cache
        self._fed: list[int] = []  # which these are
        self._pending: list[int] = []  # tokens that belong to the chat but were not fed

    def ask(self, text: str, max_new_tokens: int | None = None) -> Generator[str, None, None]:
        """Feeds a user message and yields the answer as it comes.

        The caller may stop taking pieces at any time (`close()`): what was generated so far stays in the chat.

        Args:
            text: The user's message, not blank.
            max_new_tokens: Longest answer; default: until it ends by itself or the context is full.

        Raises:
            ContextFullError: The message does not fit; the chat is unchanged.
            UserError: The program has gone to another conversation.
        """
        prompt = self._encode(text)
        started = time.perf_counter()
        logits = self._program.prefill(torch.tensor([prompt]), start=self._position)
        first_token = time.perf_counter()
        self._position = answer_start = self._position + len(prompt)
        self._fed, self._pending = [*self._fed, *prompt], []
        ids: list[int] = []
        lengths: list[int] = []  # of the text after each token
        answer = ""
        end: Literal["stop", "length", "context"] | None = None
        try:
            while end is None:
                if self._pending:
                    logits = self._program.forward(torch.tensor([self._pending]), start=self._position)
                    self._fed += self._pending
                    self._position, self._pending = self._position + 1, []
                token = sample(logits, self._sampling, self._generator, self._fed)
                if token in self._stop_ids:
                    end = "stop"  # not fed: the next turn's text begins with it
                else:
                    ids.append(token)
                    self._pending = [token]
                # Decoding the whole answer each time is the one way that is right for every tokenizer, and it is
                # cheap next to a forward call.
                text_so_far = self._tokenizer.decode(ids, skip_special_tokens=True)
                lengths.append(len(text_so_far))
                ready, stopped = shown(text_so_far, self._stop_strings)
                if stopped:
                    # The next turn must not see the stop string: positions in the cache can be written again.
                    kept = sum(length <= len(ready) for length in lengths)
                    self._go_back(min(answer_start + kept, self._position))
                    end = "stop"
                elif end or len(ids) == max_new_tokens or self._position >= self._max_context:
                    end = end or ("length" if len(ids) == max_new_tokens else "context")
                    ready = text_so_far.rstrip(REPLACEMENT)  # nothing more comes, so nothing is held back
                if len(ready) > len(answer):
                    piece, answer = ready[len(answer) :], ready
                    yield piece
        finally:
            self.last = Answer(
                text=answer,
                prompt_tokens=len(prompt),
                tokens=len(ids),
                ttft_s=first_token - started,
                decode_s=time.perf_counter() - first_token,
                end=end or "interrupted",
            )

    def _go_back(self, position: int) -> None:
        """Forget what was fed from a position on; what cannot go back there is fed from the beginning again."""
        again = self._fed[:position] if position < self._position and not self._program.goes_back else []
        self._position = 0 if again else position
        self._fed, self._pending = self._fed[: self._position], again

    def _encode(self, text: str) -> list[int]:
        """Token ids to feed for a user message. The segments hold all special tokens, so none are added."""
        if self._ended:
            raise UserError("This conversation ended when another one began with the same program; give its history.")
        if not text.strip():
            raise ValueError("the message is blank")
        if self.is_new:
            messages = [*self._before, {"role": "user", "content": text}]
            before, new_text = self._first_ids, self._segments.render(messages)
        else:
            before, new_text = self._pending, self._segments.next_turn(text)
        ids = [*before, *self._tokenizer.encode(self._normalized(new_text), add_special_tokens=False).ids]
        if self._position + len(ids) >= self._max_context:  # at least one token of answer must fit
            raise ContextFullError(len(ids), self._position, self._max_context)
        return ids


def greedy_answer(
    program: Runnable,
    tokenizer: Tokenizer,
    chat: bundle.Chat,
    info: bundle.Tokenizer,
    max_context: int,
    message: str,
    max_new_tokens: int,
) -> str:
    """The answer to one message in a new chat at temperature 0, trimmed, as in a manifest's samples."""
    session = ChatSession.of_bundle(program, tokenizer, chat, info, max_context, sampling=GREEDY)
    return "".join(session.ask(message, max_new_tokens)).strip()
