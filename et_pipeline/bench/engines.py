"""A process that runs one contender and is timed: `python -m et_pipeline.bench.engines [PROCESSOR]`.

It has its own runtime and threads, takes requests as JSON lines on standard input and answers each with one; while it
waits it must not compute, and says how much it did.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from et_pipeline.bench.host_tables import EXPORT_LLM, GENAI, LLAMA_CPP, MEMORY, OURS
from et_pipeline.bench.processor import pretend

if TYPE_CHECKING:
    import numpy as np

PACKAGES = {LLAMA_CPP: ("llama_cpp", "llama-cpp-python"), GENAI: ("onnxruntime_genai", "onnxruntime-genai")}
FIRST_TOKEN = 3  # below are beginning, end and padding


class Engine(Protocol):
    """A loaded model with its cache."""

    def prefill(self, tokens: list[int], start: int) -> None:
        """Forget what is cached from `start` on, run tokens there, and choose the likeliest next one."""

    def decode(self, count: int) -> None:
        """Run the chosen token and choose the next one, so many times."""

    def logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """[vocabulary] after a prompt that begins at position 0."""


class ExecuTorch:
    """A .pte, called as ExecuTorch's runner calls it: prompts in chunks of what it takes at most."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import torch

        from et_pipeline.runtime.program import Program

        self._torch, self._program = torch, Program(path, threads)

    def prefill(self, tokens: list[int], start: int) -> None:
        """See `Engine`."""
        self._next = int(self._program.prefill(self._torch.tensor([tokens]), start).argmax())
        self._position = start + len(tokens)

    def decode(self, count: int) -> None:
        """See `Engine`."""
        for _ in range(count):
            logits = self._program.forward(self._torch.tensor([[self._next]]), self._position)
            self._next = int(logits.argmax())
            self._position += 1

    def logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """See `Engine`."""
        return self._program.prefill(self._torch.tensor([tokens])).numpy()


class LlamaCpp:
    """A GGUF file through llama.cpp's C interface, with its defaults."""

    BATCH = 512

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import llama_cpp

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, self.BATCH, self.BATCH
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, settings)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(self.BATCH, 0, 1)

    def _run(self, tokens: list[int], start: int) -> np.ndarray[Any, Any]:
        """Logits of the last token, [vocabulary]."""
        import numpy as np

        batch = self._batch
        for offset in range(0, len(tokens), self.BATCH):
            piece = tokens[offset : offset + self.BATCH]
            batch.n_tokens = len(piece)
            for i, token in enumerate(piece):
                batch.token[i], batch.pos[i] = token, start + offset + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = offset + i == len(tokens) - 1
            failed = self._api.llama_decode(self._context, batch)
            if failed:
                raise RuntimeError(f"llama_decode returned {failed}")
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, -1), (self._vocabulary,))

    def prefill(self, tokens: list[int], start: int) -> None:
        """See `Engine`."""
        self._api.llama_memory_seq_rm(self._memory, 0, start, -1)
        self._next = int(self._run(tokens, start).argmax())
        self._position = start + len(tokens)

    def decode(self, count: int) -> None:
        """See `Engine`."""
        for _ in range(count):
            self._next = int(self._run([self._next], self._position).argmax())
            self._position += 1

    def logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """See `Engine`."""
        self._api.llama_memory_seq_rm(self._memory, 0, 0, -1)
        return self._run(tokens, 0).copy()


class GenAi:
    """A folder of onnxruntime-genai, through its generator, which chooses greedily by itself."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(str(path.parent))
        # No token ends the answer: random weights choose any.
        session = {"decoder": {"session_options": {"intra_op_num_threads": threads}}, "eos_token_id": []}
        config.overlay(json.dumps({"model": session}))
        self._model = genai.Model(config)
        settings = genai.GeneratorParams(self._model)
        settings.set_search_options(max_length=context, do_sample=False)
        self._generator = genai.Generator(self._model, settings)

    def prefill(self, tokens: list[int], start: int) -> None:
        """See `Engine`."""
        self._feed(tokens, start)
        self._generator.generate_next_token()

    def decode(self, count: int) -> None:
        """See `Engine`."""
        for _ in range(count):
            self._generator.generate_next_token()

    def logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """See `Engine`."""
        self._feed(tokens, 0)
        return self._generator.get_logits().reshape(-1).copy()

    def _feed(self, tokens: list[int], start: int) -> None:
        import numpy as np

        self._generator.rewind_to(start)
        self._generator.append_tokens(np.array([tokens], np.int32))


_ENGINES: dict[str, Any] = {OURS: ExecuTorch, EXPORT_LLM: ExecuTorch, LLAMA_CPP: LlamaCpp, GENAI: GenAi}


class _Server:
    """The child's side: one contender, and what it is asked for."""

    WARM: ClassVar[int] = 2  # tokens of decode that are not timed: others ran since, and the caches are theirs
    PASSES: ClassVar[int] = 5

    def load(self, kind: str, path: str, threads: int, context: int, vocabulary: int) -> dict[str, Any]:
        """Import everything, then load, timed."""
        import numpy as np

        rng = np.random.default_rng(0)
        self._prompt = rng.integers(FIRST_TOKEN, vocabulary, context).tolist()
        if kind == MEMORY:
            import torch

            torch.set_num_threads(threads)
            self._data = torch.ones(0)
            return {}
        if kind in PACKAGES:
            importlib.import_module(PACKAGES[kind][0])
        else:
            from et_pipeline.runtime.program import runtime_library

            for level in sys.argv[1:]:
                pretend(level)
            runtime_library()
        self._before = _resident()
        started = time.perf_counter()
        self._engine: Engine = _ENGINES[kind](Path(path), threads, context)
        return {"s": time.perf_counter() - started}

    def prefill(self, count: int, start: int) -> dict[str, Any]:
        """Time a prompt of `count` tokens from a position on."""
        self._engine.prefill(self._prompt[start : start + 1], start)
        started = time.perf_counter()
        self._engine.prefill(self._prompt[start : start + count], start)
        return {"s": time.perf_counter() - started}

    def decode(self, count: int, start: int) -> dict[str, Any]:
        """Time `count` tokens of an answer to a prompt that ends at a position."""
        self._engine.prefill(self._prompt[start - 1 : start], start - 1)
        self._engine.decode(self.WARM)
        started = time.perf_counter()
        self._engine.decode(count)
        return {"s": time.perf_counter() - started}

    def read(self, count: int, start: int) -> dict[str, Any]:
        """Time the fastest of a few passes over an array of `count` bytes: what a model's speed is held against."""
        if self._data.nbytes != count:
            self._data = self._data.new_ones(count // 4)
        passes = []
        for _ in range(self.PASSES):
            started = time.perf_counter()
            self._data.sum()
            passes.append(time.perf_counter() - started)
        return {"s": min(passes)}

    def logits(self, count: int) -> dict[str, Any]:
        """The logits after the first tokens."""
        return {"logits": self._engine.logits(self._prompt[:count]).tolist()}

    def memory(self) -> dict[str, Any]:
        """What loading and running added to the process: its own memory, and pages of files."""
        return {name: value - self._before[name] for name, value in _resident().items()}


def _resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous_bytes": sizes["RssAnon"], "file_bytes": sizes["RssFile"] + sizes["RssShmem"]}


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    server, idle_from = _Server(), (time.perf_counter(), time.process_time())
    for line in sys.stdin:
        waited, spun = time.perf_counter() - idle_from[0], time.process_time() - idle_from[1]
        request = json.loads(line)
        answer = getattr(server, request.pop("op"))(**request)
        answers.write(json.dumps({**answer, "waited_s": waited, "spun_s": spun}) + "\n")
        idle_from = (time.perf_counter(), time.process_time())


if __name__ == "__main__":
    _serve()
