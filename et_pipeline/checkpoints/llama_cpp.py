"""llama.cpp as a witness of GGUF files, by its Python binding cyllama where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline.checkpoints.witness import Whose

if TYPE_CHECKING:
    import torch

_ALL_F32 = 0  # llama.cpp's llama_ftype
_NO_FLASH_ATTENTION = 0
_TYPE_F32 = 0


class Unavailable(Exception):
    """llama.cpp cannot be asked about a file; the message says why."""


def whose(note: str | None = None) -> Whose:
    """What the manifest says of it."""
    return Whose("llama.cpp", f"{_binding().ggml_commit()} (cyllama {metadata.version('cyllama')})", note)


def as_floats(path: Path, folder: Path) -> Path:
    """The file with all weights as the float32 numbers that they stand for, by llama.cpp's own quantizer.

    Its kernels for quantized weights round the activations to 8 bits, which would hide small faults.

    Args:
        path: a GGUF file.
        folder: takes the new file, of four bytes per weight.

    Raises:
        Unavailable: llama.cpp is not installed, or does not read the file.
    """
    binding = _binding()
    _check_window(path)
    settings = binding.LlamaModelQuantizeParams()
    settings.allow_requantize, settings.ftype = True, _ALL_F32
    made = folder / "float32.gguf"
    try:
        binding.model_quantize(str(path), str(made), settings)
    except RuntimeError as error:
        raise Unavailable(f"llama.cpp does not read it ({error})") from error
    return made


def logits(path: Path, context: int, sequences: Sequence[Sequence[int]], last: int = 0) -> list[torch.Tensor]:
    """Logits of every position (of the `last` ones, unless 0) of some sequences, [length, vocabulary] float32 each.

    Args:
        path: a GGUF file.
        context: the longest context that is meant: some rotary frequencies follow it.
        sequences: token ids.
        last: how many positions at the end count.

    Raises:
        Unavailable: llama.cpp is not installed, or does not load the file.
    """
    import numpy as np
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
    longest = max(map(len, sequences))
    wanted: Any = binding.LlamaContextParams()
    wanted.n_ctx = max(context, longest)
    wanted.n_batch = wanted.n_ubatch = longest
    wanted.n_threads = wanted.n_threads_batch = torch.get_num_threads()
    wanted.type_k = wanted.type_v = _TYPE_F32
    wanted.flash_attn_type = _NO_FLASH_ATTENTION
    wanted.swa_full = True
    session = binding.LlamaContext(model, wanted, verbose=False)
    found = []
    for sequence in sequences:
        session.kv_cache_clear()
        first = len(sequence) - last if last else 0
        batch = binding.LlamaBatch(n_tokens=len(sequence), embd=0, n_seq_max=1)
        for position, token in enumerate(sequence):
            batch.add(token, position, [0], position >= first)
        session.decode(batch)
        rows = [np.array(session.get_logits_ith(at), np.float32) for at in range(first, len(sequence))]
        found.append(torch.from_numpy(np.stack(rows)))
    return found


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
