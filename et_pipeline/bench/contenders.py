"""What the host benchmark compares, and how each program's file is made.

Peers' files are made in a process each, from the checkpoint that ours was made from.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.bench import export_llm, peer_files
from et_pipeline.bench.engines import PACKAGES
from et_pipeline.bench.host_tables import EXPORT_LLM, GENAI, LLAMA_CPP, PEERS
from et_pipeline.bench.peer_files import Shape
from et_pipeline.bench.processor import newer
from et_pipeline.cache import build
from et_pipeline.errors import UserError
from et_pipeline.host import children_cpu_seconds
from et_pipeline.worker import watch_memory


class Made(NamedTuple):
    """A contender's file, and what it took to make it; CPU seconds and bytes of anonymous memory."""

    path: Path
    cpu_s: float
    peak_rss_bytes: int


def missing(kind: str) -> str | None:
    """Why a peer cannot take part, or None if it can."""
    module, package = PACKAGES.get(kind, ("executorch", "executorch"))
    return None if importlib.util.find_spec(module) else f"{package} is not installed; make bench-host installs it"


def too_new(kind: str, level: str) -> str | None:
    """Why a peer cannot be measured as on an older processor, or None if it can.

    Args:
        kind: the peer.
        level: one of `processor.LEVELS`.
    """
    if kind != LLAMA_CPP:
        return "it chooses by the processor that is there"
    asked = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    uses = [word.lower().replace("_", "") for word in re.findall(r"(\w+) = 1", said)]
    found = newer([{"avx512": "avx512f", "fma": "fma3"}.get(word, word) for word in uses], level)
    if not found:
        return None
    return (
        f"llama.cpp here is built for {', '.join(found)}: build another with CMAKE_ARGS=-DGGML_NATIVE=OFF pip install "
        "--no-deps --no-binary llama-cpp-python --target FOLDER llama-cpp-python, and set "
        "LLAMA_CPP_LIB_PATH=FOLDER/llama_cpp/lib"
    )


def make(kind: str, shape: Shape, context: int, root: Path) -> Made:
    """Make a peer's file, or take it from an earlier run.

    Args:
        kind: the peer.
        shape: its weights.
        context: positions that it must hold.
        root: folder of what was made earlier.

    Raises:
        UserError: the peer's own tool failed; the sentence ends with its last words.
    """
    name, command = _commands(shape.checkpoint, context)[kind]
    key = {"kind": kind, "config": shape.config, "context": context, "checkpoint": shape.checkpoint.name}

    def fill(out: Path) -> tuple[dict[str, Any], dict[str, float]]:
        log = root / f"{kind}.log"
        if kind == EXPORT_LLM:
            peer_files.write_meta_checkpoint(shape, out)  # not counted: it is no part of an export
        words = [word.format(out=out) for word in command]
        before = children_cpu_seconds()
        with log.open("wb") as stream:
            child = subprocess.Popen(words, cwd=out, stdout=stream, stderr=subprocess.STDOUT)
        peak = watch_memory(child.pid)
        if child.wait() or not (out / name).exists():
            raise UserError(f"{PEERS[kind]} could not be made; {log} ends with: {_last_words(log)}")
        for leftover in out.glob("*.pth"):
            leftover.unlink()
        return {}, {"cpu_s": round(children_cpu_seconds() - before, 1), "peak_rss_bytes": peak()}

    root.mkdir(parents=True, exist_ok=True)
    entry, _ = build(root / kind, fill, key)
    if entry.record["key"] != key:
        raise UserError(f"{root / kind} holds another model; choose another folder, or remove it")
    return Made(entry.folder / name, entry.cost["cpu_s"], int(entry.cost["peak_rss_bytes"]))


def _commands(checkpoint: Path, context: int) -> dict[str, tuple[str, list[str]]]:
    """By peer: the file that the benchmark loads, and the command that makes it in the folder `{out}`."""
    python = sys.executable
    builder = [*("-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", "{out}"), "-c", "{out}"]
    exporter = export_llm.COMMAND.format(folder="{out}", context=context).replace("llama2", "llama3_2").split()
    return {
        LLAMA_CPP: ("model.gguf", [python, "-m", peer_files.__name__, str(checkpoint), "{out}/model.gguf"]),
        GENAI: ("model.onnx", [python, *builder, "-p", "int4", "-e", "cpu"]),
        EXPORT_LLM: ("model.pte", [python, "-m", "executorch.extension.llm.export.export_llm", *exporter]),
    }


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace", encoding="utf-8").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def weights_read(kind: str, path: Path, shape: Shape) -> int:
    """Bytes of weights that one token needs: all linears, the head too, but of an embedding only a row.

    Of an ExecuTorch program: the file without its embedding, which is taken to be in 8 bits. Of the others: the sum
    over their tensors.
    """
    if kind == LLAMA_CPP:
        from gguf import GGUFReader

        tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
        return sum(tensors.values()) - (tensors["token_embd.weight"] if "output.weight" in tensors else 0)
    if kind == GENAI:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        used = {name for node in graph.node if node.op_type == "MatMulNBits" for name in node.input}
        return sum(_onnx_bytes(tensor) for tensor in graph.initializer if tensor.name in used)
    return path.stat().st_size - shape.config["vocab_size"] * (shape.config["hidden_size"] + 4)


def _onnx_bytes(tensor: Any) -> int:
    stored = {entry.key: entry.value for entry in tensor.external_data}
    return int(stored["length"]) if "length" in stored else len(tensor.raw_data)


def kv_bytes(kind: str, shape: Shape) -> int:
    """Bytes of the cache per position: llama.cpp keeps it in 16 bits, the others in 32."""
    heads = shape.config["num_key_value_heads"]
    return 2 * shape.config["num_hidden_layers"] * heads * shape.head_dim * (2 if kind == LLAMA_CPP else 4)


def head_type(path: Path) -> str:
    """In which type a GGUF file holds the head, which llama.cpp's quantizer chooses."""
    from gguf import GGUFReader

    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    return types.get("output.weight", types["token_embd.weight"])


def file_bytes(path: Path) -> int:
    """Bytes of a program with its weights, which ONNX keeps in a second file."""
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
