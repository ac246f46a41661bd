"""llama.cpp as a witness of GGUF files, and its quantizer, by its Python binding cyllama where that is installed.

It computes in a process of its own: what it does not expect of a file makes it abort.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from et_pipeline.checkpoints.witness import Whose
from et_pipeline.settings import Frozen
from et_pipeline.worker import StageKilled, Tick, run_stage

if TYPE_CHECKING:
    import torch
    from gguf import LlamaFileType

_NO_FLASH_ATTENTION = 0
_TYPE_F32 = 0
_LOGITS = "logits.npy"
_ASSERTION = "GGML_ASSERT"


class Unavailable(Exception):
    """llama.cpp cannot be asked about a file; the message says why."""


class Question(Frozen):
    """What its process is asked.

    Attributes:
        path: a GGUF file.
        context: the longest context that is meant: some rotary frequencies follow it.
        sequences: token ids.
        wanted: how many positions at the end of each count.
        as_floats: read all weights as the float32 numbers that they stand for.
    """

    path: str
    context: int
    sequences: tuple[tuple[int, ...], ...]
    wanted: tuple[int, ...]
    as_floats: bool


def whose(note: str | None = None) -> Whose:
    """What the manifest says of it."""
    return Whose("llama.cpp", f"{_binding().ggml_commit()} (cyllama {metadata.version('cyllama')})", note)


def logits(
    path: Path,
    context: int,
    sequences: Sequence[Sequence[int]],
    far: Sequence[int] = (),
    far_end: int = 0,
    as_floats: bool = False,
) -> list[torch.Tensor]:
    """Logits of every position of some sequences, and of the last ones of another, [length, vocabulary] float32 each.

    Args:
        path: a GGUF file.
        context: the longest context that is meant: some rotary frequencies follow it.
        sequences: token ids.
        far: more token ids, of which `far_end` positions at the end count.
        far_end: how many.
        as_floats: let llama.cpp's own quantizer make a file of float32 weights first, of four bytes each: its kernels
            for quantized weights round the activations to 8 bits, which would hide small faults.

    Raises:
        Unavailable: llama.cpp is not installed, does not load the file, or crashes.
    """
    import torch

    _binding()
    texts, wanted = [tuple(text) for text in sequences], [len(text) for text in sequences]
    if far:
        texts.append(tuple(far))
        wanted.append(min(far_end, len(far)))
    question = Question(
        path=str(path), context=context, sequences=tuple(texts), wanted=tuple(wanted), as_floats=as_floats
    )
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        try:
            figures, _ = run_stage(
                __name__, {}, Path(scratch), {"question": question}, 0, log, lambda done, total: None
            )
        except StageKilled as error:
            lines = log.read_text(errors="replace", encoding="utf-8").splitlines()
            said = next((line.rpartition("/")[2] for line in lines if _ASSERTION in line), "")
            raise Unavailable(f"llama.cpp {error.ending} over it{said and f' ({said})'}") from error
        if "unavailable" in figures:
            raise Unavailable(figures["unavailable"])
        return list(torch.from_numpy(np.load(Path(scratch) / _LOGITS)).split(wanted))


def run(inputs: dict[str, Path], out: Path, tick: Tick, question: Question) -> dict[str, Any]:
    """The process's side: write the logits of all sequences, one after the other; see `worker.run_stage`."""
    from gguf import LlamaFileType

    os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would call a debugger
    path = Path(question.path)
    try:
        _check_window(path)
        if question.as_floats:
            path = out / "float32.gguf"
            quantize(Path(question.path), path, LlamaFileType.ALL_F32)
        _compute(path, out / _LOGITS, question)
    except Unavailable as error:
        return {"unavailable": str(error)}
    return {}


def quantize(path: Path, made: Path, kind: LlamaFileType) -> None:
    """Let llama.cpp's own quantizer make a file of another type, with its defaults, which decide the head's.

    Raises:
        Unavailable: llama.cpp is not installed, or cannot.
    """
    binding = _binding()
    settings = binding.LlamaModelQuantizeParams()
    settings.allow_requantize, settings.ftype = True, int(kind)
    try:
        binding.model_quantize(str(path), str(made), settings)
    except RuntimeError as error:
        raise Unavailable(f"llama.cpp does not read it ({error})") from error


def _compute(path: Path, file: Path, question: Question) -> None:
    import torch

    binding = _binding()
    # `get_logits_ith` asks for it, and it is missing.
    Model = type("Model", (binding.LlamaModel,), {"n_vocab": property(lambda model: model.get_vocab().n_vocab)})
    settings = binding.LlamaModelParams()
    settings.n_gpu_layers, settings.use_extra_bufts = 0, False
    try:
        model = Model(str(path), settings, verbose=False)
    except (ValueError, RuntimeError) as error:
        raise Unavailable(f"llama.cpp does not load it ({error})") from error
    longest = max(map(len, question.sequences))
    wanted: Any = binding.LlamaContextParams()
    wanted.n_ctx = max(question.context, longest)
    wanted.n_batch = wanted.n_ubatch = longest
    wanted.n_threads = wanted.n_threads_batch = torch.get_num_threads()
    wanted.type_k = wanted.type_v = _TYPE_F32
    wanted.flash_attn_type = _NO_FLASH_ATTENTION
    wanted.swa_full = True
    session = binding.LlamaContext(model, wanted, verbose=False)
    shape = (sum(question.wanted), model.n_vocab)
    found = np.lib.format.open_memmap(file, "w+", np.float32, shape)  # so that they take no memory here
    row = 0
    for sequence, count in zip(question.sequences, question.wanted, strict=True):
        session.kv_cache_clear()
        first = len(sequence) - count
        batch = binding.LlamaBatch(n_tokens=len(sequence), embd=0, n_seq_max=1)
        for position, token in enumerate(sequence):
            batch.add(token, position, [0], position >= first)
        session.decode(batch)
        for at in range(first, len(sequence)):
            found[row] = session.get_logits_ith(at)
            row += 1


def _check_window(path: Path) -> None:
    """llama.cpp passes over the window of some families (its issue 13676), and reads all that came before instead."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    for family in ("phi3", "starcoder2"):
        field = reader.get_field(f"{family}.attention.sliding_window")
        if field is not None and field.contents():
            raise Unavailable(f"llama.cpp passes over {family}'s sliding window")


def _binding() -> Any:
    if util.find_spec("cyllama") is None:
        raise Unavailable("cyllama, which is llama.cpp for Python, is not installed")
    binding = import_module("cyllama.llama.llama_cpp")
    binding.set_log_callback(lambda *message: None)
    return binding
