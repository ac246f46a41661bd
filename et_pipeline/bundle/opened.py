"""An opened bundle: what it says of itself, and its model at work on this computer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from et_pipeline import host
from et_pipeline import manifest as bundle
from et_pipeline.bundle import adapters, loading
from et_pipeline.bundle.verify import Verification, checks
from et_pipeline.chat_template import Message
from et_pipeline.errors import UserError
from et_pipeline.manifest import archive

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    from et_pipeline.runtime.adapters import AdapterSlot
    from et_pipeline.runtime.chat import ChatSession
    from et_pipeline.runtime.program import Program

log = logging.getLogger(__name__)


def open_bundle(path: Path | str, *, threads: int | None = None, packed: Path | None = None) -> Bundle:
    """Opens a bundle and checks every file's hash; its model is loaded when it is first used.

    A zip is unpacked to a temporary folder, which `close`, or the end of a `with` over the bundle, removes.

    Args:
        path: The folder, or the .zip.
        threads: Threads that compute; by default the runtime chooses.
        packed: Folder in which a large model's weights are kept as this processor wants them, to load fast next time.

    Raises:
        UserError: It is no bundle, or a file is missing, altered, too many or unsafe.
    """
    path = host.expanded(Path(path))
    if path.is_dir():
        manifest = bundle.read(path)
        bundle.check_files(path, manifest)
        return Bundle(path, manifest, threads, packed)
    temporary = tempfile.TemporaryDirectory(prefix="et-bundle-")
    try:
        manifest = archive.unpack(path, Path(temporary.name))
    except BaseException:
        temporary.cleanup()
        raise
    return Bundle(Path(temporary.name), manifest, threads, packed, temporary)


class Bundle:
    """An opened bundle whose files were all checked; see `open_bundle`.

    Attributes:
        folder: Where its files are.
        manifest: What it says of itself.
    """

    def __init__(
        self,
        folder: Path,
        manifest: bundle.Manifest,
        threads: int | None = None,
        packed: Path | None = None,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._threads, self._packed, self._temporary = threads, packed, temporary
        self._session: ChatSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes what was unpacked; what is loaded works on."""
        if self._temporary is not None:
            self._temporary.cleanup()

    @cached_property
    def info(self) -> bundle.ProgramInfo:
        """The program that this computer runs.

        Raises:
            UserError: It runs none of them.
        """
        return loading.first_runnable(self.manifest)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return loading.load_tokenizer(self.folder, self.manifest)

    @cached_property
    def program(self) -> Program:
        """The loaded program."""
        return loading.load_program(
            self.folder, self.info, self.manifest, self.tokenizer, self._threads, self._packed, self._slot
        )

    @cached_property
    def _slot(self) -> AdapterSlot | None:
        return adapters.slot_of(self.folder, self.info)

    def session(
        self,
        *,
        system: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
        history: Sequence[Message] = (),
        adapter: str | None = None,
        thinking: bool | None = None,
    ) -> ChatSession:
        """Begins a conversation: its `ask` yields an answer piece by piece and remembers what was said.

        The program holds one conversation at a time: this one ends that of an earlier call. So another adapter is
        changed to here, for what the cache holds is of the one before.

        Args:
            system: System prompt instead of the bundle's own.
            temperature: 0 answers the same every time; higher varies more. By default the bundle's own.
            seed: Of the sampling.
            history: What was said before: messages of user and assistant in turn.
            adapter: Name of one of the bundle's adapters; None is the model without any.
            thinking: Whether the model is to think before it answers. By default as its chat template has it.

        Raises:
            UserError: The bundle embeds texts, or takes no system prompt, or has no such adapter, or no such switch.
        """
        from et_pipeline.runtime.chat import ChatSession

        form, name = self.manifest.chat, self.manifest.what.name
        if form is None:
            raise UserError(f"{name} embeds texts and cannot chat: use 'et-bundle embed' with it.")
        segments = form.segments_for(thinking)
        if segments is None:
            raise UserError(f"{name} has no switch for thinking in its chat template: leave it as it is.")
        if system and not segments.supports_system:
            raise UserError(f"{name} takes no system prompt: leave it out.")
        changed = {} if temperature is None else {"temperature": temperature}
        chosen = None if adapter is None else adapters.find(self.manifest, adapter, self.info)
        if self._session is not None:
            self._session.end()
        if self._slot is not None:
            self._slot.put(None if chosen is None else self.folder / chosen.file)
        self._session = ChatSession.of_bundle(
            self.program,
            self.tokenizer,
            form.model_copy(update={"segments": segments}),
            self.manifest.tokenizer,
            self.info.max_context,
            system_prompt=system,
            sampling=form.sampling.model_copy(update=changed),
            seed=seed,
            history=history,
        )
        return self._session

    def stream(
        self,
        messages: str | Sequence[Message],
        *,
        system: str | None = None,
        temperature: float | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
    ) -> Iterator[str]:
        """Answers as `chat` does, and yields the answer piece by piece."""
        from et_pipeline.runtime.chat import ContextFullError

        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if said and said[0]["role"] == "system":
            system = said.pop(0)["content"]
        roles = [message["role"] for message in said]
        if not said or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise UserError(f"user and assistant must take turns and the user comes last, got {', '.join(roles)}.")
        if not said[-1]["content"].strip():
            raise UserError("The message is blank: write something.")
        session = self.session(system=system, temperature=temperature, seed=seed, history=said[:-1])
        try:
            yield from session.ask(said[-1]["content"], max_new_tokens)
        except ContextFullError as error:
            raise UserError(f"This is too long for the model: {error}.") from error

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        system: str | None = None,
        temperature: float | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
    ) -> str:
        """Answers a message, or the last one of a conversation. `session` has conversations that go on.

        Args:
            messages: What the user says, or `{"role", "content"}` each: an optional system message, then user and
                assistant in turn, the last one from the user.
            system: System prompt instead of the bundle's own.
            temperature: 0 answers the same every time; higher varies more. By default the bundle's own.
            max_new_tokens: Longest answer, in tokens.
            seed: Of the sampling.

        Raises:
            UserError: The bundle cannot do that, or the messages are too long for it.
        """
        pieces = self.stream(messages, system=system, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return "".join(pieces).strip()

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, dimension: int | None = None) -> np.ndarray:
        """Embeds texts; one that is too long is cut, and that is logged.

        Args:
            texts: One or more.
            prompt: Name of one of the bundle's prompts, which goes before each; by default the bundle's own, "" is
                none.
            dimension: One of the bundle's shorter lengths; by default the whole.

        Returns:
            [N, dimension] float32.

        Raises:
            UserError: The bundle answers and does not embed, has no such prompt or length, or a text has no token.
        """
        embedding = self.manifest.embedding
        if embedding is None:
            raise UserError(
                f"{self.manifest.what.name} answers and does not embed texts: use 'et-bundle chat' with it."
            )
        import numpy as np

        from et_pipeline.runtime.embedding import embed, for_one_text, shorten, with_prompt

        texts = with_prompt(embedding, texts, prompt)
        self.tokenizer.no_truncation()
        whole = [len(self.tokenizer.encode(text).ids) for text in texts]
        for_one_text(self.tokenizer, embedding.max_tokens)
        vectors = [embed(self.program, self.tokenizer.encode(text).ids).numpy() for text in texts]
        for number, length in enumerate(whole, start=1):
            if length > embedding.max_tokens:
                most = embedding.max_tokens
                log.warning("Text %d has %d tokens, and what follows the first %d was left out.", number, length, most)
        return shorten(embedding, np.stack(vectors), dimension)

    def verify(self) -> Verification:
        """Checks what `et-bundle verify` checks: hashes, schema, programs, sample answers, quality.

        Raises:
            UserError: The bundle is broken.
        """
        return Verification(tuple(checks(self.folder, self.manifest, self._threads)))
