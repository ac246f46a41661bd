"""Run a .pte on this host, in the ExecuTorch runtime that phones run too."""

from __future__ import annotations

import logging
import os
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.runtime import mapped, packed_weights

if TYPE_CHECKING:
    import torch

# executorch/schema/extended_header.h: flatbuffer root, file magic, then our header's magic, length and three sizes.
_HEADER = struct.Struct("<4x4s4sIQQQ")
# extension/flat_tensor/serialize/flat_tensor_header.h: the same, then where the flatbuffer and the data lie.
_DATA_HEADER = struct.Struct("<4x4x4x4xQQQQ")
UINT16 = 27  # executorch/runtime/core/portable_type/scalar_type.h


class Program:
    """A loaded decoder with its cache, or a loaded encoder.

    Thread count is a setting of the process: a later program with another count changes it for earlier ones too.
    """

    def __init__(
        self, path: Path, threads: int | None = None, weights: Path | None = None, packed: Path | None = None
    ) -> None:
        """Load a .pte.

        Args:
            path: the file.
            threads: how many threads the delegate uses; None leaves the runtime's choice.
            weights: its .ptd; None takes the one of the same name beside it, if there is one.
            packed: where to keep its packed weights, from `packed_weights.find_entry`; None packs them in memory.

        Raises:
            UserError: a file is missing, truncated or not of its format, or the weights are another program's.
        """
        check_program_file(path)
        weights = weights or weights_beside(path)
        if weights is not None:
            check_weights_file(weights)
        with quiet():
            library = runtime_library()
            if threads is not None:
                set_threads(threads)
            self._program = library._load_program(str(path), data_path=None if weights is None else str(weights))
            self.metadata = _constants(self._program)
            try:
                if packed is None:
                    self._forward = self._program.load_method("forward")
                else:
                    self._forward = packed_weights.load(lambda: self._program.load_method("forward"), packed)
            except RuntimeError as error:
                if weights is None and not _lacks_weights(error):
                    raise
                raise UserError(_lacking(path, weights)) from error
        for file in (path, weights):
            if file is not None:
                mapped.let_go(file)

    @property
    def goes_back(self) -> bool:
        """Whether a sequence may go on from an earlier position; otherwise only from 0 or from where it ended."""
        return bool(self.metadata.get("goes_back", True))

    def forward(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        """Run tokens that follow `start` earlier ones.

        Args:
            tokens: [1, S] int64, at most prefill_chunk tokens.
            start: position of the first.

        Returns:
            [vocabulary] float32 logits after the last token.
        """
        import torch

        return self._run((tokens, torch.tensor([start], dtype=torch.long)))

    def embed(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run a whole text through an encoder.

        Args:
            inputs: tokens [1, S] int64, at most as many as the program takes; of a program that wants padding also the
                mask; see `embedding.embed`.

        Returns:
            [dimension] float32.
        """
        return self._run(inputs)

    def _run(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        import torch

        # NumPy copies them: of a whole vocabulary torch would with its threads, which then wait, busily, on the
        # processors that the runtime's own threads need for the next token.
        outputs = self._forward(inputs, clone_outputs=False)
        return torch.from_numpy(outputs[0].numpy().copy()).reshape(-1)

    def prefill(self, tokens: torch.Tensor, start: int = 0, chunk: int | None = None) -> torch.Tensor:
        """Run a whole prompt in pieces.

        Args:
            tokens: [1, N] int64 with N ≥ 1.
            start: position of the first.
            chunk: tokens of one call; None takes as many as the program allows.

        Returns:
            [vocabulary] float32 logits after the last token.

        Raises:
            ValueError: no tokens.
        """
        size = chunk or int(self.metadata["get_max_seq_len"])
        if tokens.shape[1] == 0:
            raise ValueError("a prompt needs at least one token")
        for offset in range(0, tokens.shape[1], size):
            logits = self.forward(tokens[:, offset : offset + size].contiguous(), start + offset)
        return logits

    def continuation(self, tokens: Sequence[int], first: int) -> torch.Tensor:
        """What the program expects of the end of a text, given all before each token.

        A call gives the last token's logits alone, so tokens go in one by one from where they are asked for.

        Args:
            tokens: N ids from the context's beginning on.
            first: index of the first token that is asked for, at least 1.

        Returns:
            [N - first, vocabulary] float32 logits, each what predicts a token.
        """
        import torch

        ids = torch.tensor([list(tokens)], dtype=torch.long)
        rows = [self.prefill(ids[:, :first])]
        rows += [self.forward(ids[:, at : at + 1].contiguous(), at) for at in range(first, len(tokens) - 1)]
        return torch.stack(rows)

    def greedy(self, prompt_ids: list[int], max_new_tokens: int, stop_ids: Collection[int]) -> list[int]:
        """Answer a prompt by taking the likeliest token each time.

        Args:
            prompt_ids: the prompt.
            max_new_tokens: most tokens to add; the context's end stops earlier.
            stop_ids: tokens that end the answer; none of them is part of it.

        Returns:
            The new token ids.
        """
        import torch

        answer: list[int] = []
        logits = self.prefill(torch.tensor([prompt_ids], dtype=torch.long))
        budget = min(max_new_tokens, int(self.metadata["get_max_context_len"]) - len(prompt_ids))
        while len(answer) < budget:
            token = int(logits.argmax())
            if token in stop_ids:
                break
            answer.append(token)
            if len(answer) < budget:
                logits = self.forward(torch.tensor([[token]], dtype=torch.long), len(prompt_ids) + len(answer) - 1)
        return answer


class DrivenProgram(Program):
    """A loaded decoder whose cache the caller holds, see `models.external_cache`; here that caller is this object."""

    def __init__(self, path: Path) -> None:
        """Load a .pte with the methods of this form.

        Raises:
            UserError: the file is missing, truncated or no ExecuTorch program.
        """
        import torch

        from et_pipeline.models.external_cache import METHODS, CacheDriver

        check_program_file(path)
        with quiet():
            self._program = runtime_library()._load_program(str(path))
            self.metadata = _constants(self._program)
            methods = {name: self._program.load_method(name) for name in METHODS}
            dtype = self._program.method_meta(METHODS[0]).input_tensor_meta(3).dtype()
        self._driver = CacheDriver(lambda name, inputs: methods[name](inputs), self.metadata)
        if dtype == UINT16:
            self._driver.caches = [cache.to(torch.uint16) for cache in self._driver.caches]

    def forward(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        """Run any number of tokens, in chunks; see `Program.forward`."""
        return self._driver.feed(tokens[0].tolist(), start)[-1]

    def continuation(self, tokens: Sequence[int], first: int) -> torch.Tensor:
        """The same as `Program.continuation`; a call gives the logits of all its tokens here."""
        return self._driver.feed(list(tokens)[:-1])[first - 1 :]


def set_threads(threads: int) -> None:
    """Let the runtime use this many threads; call it before loading a program, as XNNPACK keeps the pool it finds."""
    runtime_library()._unsafe_reset_threadpool(threads)


def runtime_library() -> Any:
    """ExecuTorch's runtime with the custom and quantized kernels that our programs call."""
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401  both register kernels
    from executorch.extension.pybindings import portable_lib

    return portable_lib


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a program's constant methods, without loading its weights.

    Raises:
        UserError: the file is missing, truncated or no ExecuTorch program.
    """
    check_program_file(path)
    with quiet():
        return _constants(runtime_library()._load_program(str(path)))


def _constants(program: Any) -> dict[str, Any]:
    """What the methods without inputs of a program return."""
    names = [program.get_method_name(index) for index in range(program.num_methods())]
    values = {name: program.load_method(name)(()) for name in sorted(names) if not name.endswith("forward")}
    # Every result is a list of outputs; only these have a list for a value.
    lists = ("get_eos_ids", "get_windows")
    return {name: outputs if name in lists else outputs[0] for name, outputs in values.items()}


def check_program_file(path: Path) -> None:
    """Refuse what is no whole .pte before native code sees it.

    Raises:
        UserError: the file is missing, truncated or no ExecuTorch program.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size or head[4:6] != b"ET" or head[8:12] != b"eh00":
        raise UserError(f"{path} is not an ExecuTorch program (.pte)")
    _, _, _, program_size, segments_start, segments_size = _HEADER.unpack(head)
    needed = segments_start + segments_size if segments_start else program_size
    if size < needed:
        raise UserError(f"{path} is truncated: it has {size} bytes of {needed}")


def weights_beside(path: Path) -> Path | None:
    """The .ptd with a program's external weights, by its name; None if there is none."""
    weights = path.with_suffix(".ptd")
    return weights if weights.is_file() else None


def check_weights_file(path: Path) -> None:
    """Refuse what is no whole .ptd before native code sees it.

    Raises:
        UserError: the file is missing, truncated or no ExecuTorch data file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_DATA_HEADER.size)
    if len(head) < _DATA_HEADER.size or head[4:6] != b"FT" or head[8:12] != b"FH01":
        raise UserError(f"{path} is not an ExecuTorch data file (.ptd)")
    _, _, segments_start, segments_size = _DATA_HEADER.unpack(head)
    if size < segments_start + segments_size:
        raise UserError(f"{path} is truncated: it has {size} bytes of {segments_start + segments_size}")


def _lacking(path: Path, weights: Path | None) -> str:
    found = "and there is none" if weights is None else f"and {weights} holds others"
    return f"{path} needs the weights that it was exported with, as {path.with_suffix('.ptd').name}, {found}"


def _lacks_weights(error: RuntimeError) -> bool:
    return str(error).endswith("0x:2")  # Error::InvalidState


def _free_loggers(stream: IO[str]) -> None:
    """Let what libraries log go to standard error again: those imported meanwhile have kept the stream."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if getattr(handler, "stream", None) is stream:
                handler.setStream(sys.__stderr__)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code prints away from the user; shown if the block raises.

    The runtime writes to file descriptors 1 and 2, and through Python's own streams, which need not be the same.
    """
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as captured:
        os.dup2(captured.fileno(), 1)
        os.dup2(captured.fileno(), 2)
        failed = True
        try:
            with redirect_stdout(captured), redirect_stderr(captured):
                yield
            failed = False
        finally:
            captured.flush()
            _free_loggers(captured)
            for descriptor, copy in enumerate(saved, start=1):
                os.dup2(copy, descriptor)
                os.close(copy)
            if failed:
                captured.seek(0)
                sys.stderr.write(captured.read())
