"""Run a .pte on this host, in the ExecuTorch runtime that phones run too."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

# executorch/schema/extended_header.h: flatbuffer root, file magic, then our header's magic, length and three sizes.
_HEADER = struct.Struct("<4x4s4sIQQQ")


class Program:
    """A loaded decoder with its cache.

    Thread count is a setting of the process: a later program with another count changes it for earlier ones too.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load a .pte.

        Args:
            path: the file.
            threads: how many threads the delegate uses; None leaves the runtime's choice.

        Raises:
            UserError: the file is missing, truncated or no ExecuTorch program.
        """
        check_program_file(path)
        with quiet():
            import executorch.extension.llm.custom_ops.custom_ops
            import executorch.kernels.quantized  # noqa: F401  both register kernels in the runtime
            from executorch.extension.pybindings import portable_lib

            if threads is not None:
                # Before loading: XNNPACK keeps the pool that it finds then.
                portable_lib._unsafe_reset_threadpool(threads)
            self._module = portable_lib._load_for_executorch(str(path))
            self.metadata: dict[str, Any] = {
                name: self._constant(name) for name in self._module.method_names() if name != "forward"
            }

    def _constant(self, name: str) -> Any:
        values = self._module.run_method(name, ())
        return list(values) if name == "get_eos_ids" else values[0]

    def forward(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        """Run tokens that follow `start` earlier ones.

        Args:
            tokens: [1, S] int64, at most prefill_chunk tokens.
            start: position of the first.

        Returns:
            [vocabulary] float32 logits after the last token.
        """
        import torch

        logits = self._module.forward((tokens, torch.tensor([start], dtype=torch.long)))[0]
        return logits.reshape(-1)

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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code prints away from the user; shown again if the block raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 1)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved[1], 2)
            captured.seek(0)
            os.write(2, captured.read())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
