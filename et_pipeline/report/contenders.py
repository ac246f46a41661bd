"""What the host benchmark compares: how each program's file is made, and a process that runs one and is timed.

Each contender lives in a process of its own (`python -m et_pipeline.report.contenders run`), with its own runtime and
threads. It takes requests as JSON lines on standard input and answers each with one; while it waits it must not
compute, and says how much it did. Peers' files are made in a process too, from the checkpoint that ours was made from.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from et_pipeline.cache import build
from et_pipeline.errors import UserError
from et_pipeline.report import export_llm
from et_pipeline.report.host_tables import EXPORT_LLM, GENAI, LLAMA_CPP, MEMORY, OURS, PEERS
from et_pipeline.worker import watch_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

PACKAGES = {LLAMA_CPP: ("llama_cpp", "llama-cpp-python"), GENAI: ("onnxruntime_genai", "onnxruntime-genai")}
FIRST_TOKEN = 3  # below are beginning, end and padding
_ME = "et_pipeline.report.contenders"


class Shape(NamedTuple):
    """A model with random weights: its folder in Hugging Face layout, and the content of its config.json."""

    checkpoint: Path
    config: dict[str, Any]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def rope(self) -> dict[str, Any]:
        """The rotary settings, in the one form that transformers gives them."""
        from transformers import AutoConfig

        return dict(AutoConfig.from_pretrained(self.checkpoint).rope_parameters)


class Made(NamedTuple):
    """A contender's file, and what it took to make it; CPU seconds and bytes of anonymous memory."""

    path: Path
    cpu_s: float
    peak_rss_bytes: int


def missing(kind: str) -> str | None:
    """Why a peer cannot take part, or None if it can."""
    module, package = PACKAGES.get(kind, ("executorch", "executorch"))
    return None if importlib.util.find_spec(module) else f"{package} is not installed; make bench-host installs it"


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
            write_meta_checkpoint(shape, out)  # not counted: it is no part of an export
        words = [word.format(out=out) for word in command]
        with log.open("wb") as stream:
            child = subprocess.Popen(words, cwd=out, stdout=stream, stderr=subprocess.STDOUT)
        peak = watch_memory(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode or not (out / name).exists():
            raise UserError(f"{PEERS[kind]} could not be made; {log} ends with: {_last_words(log)}")
        for leftover in out.glob("*.pth"):
            leftover.unlink()
        return {}, {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_rss_bytes": peak()}

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
        LLAMA_CPP: ("model.gguf", [python, "-m", _ME, "quantize", str(checkpoint), "{out}/model.gguf"]),
        GENAI: ("model.onnx", [python, *builder, "-p", "int4", "-e", "cpu"]),
        EXPORT_LLM: ("model.pte", [python, "-m", "executorch.extension.llm.export.export_llm", *exporter]),
    }


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
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


# Making peers' files.


def write_gguf(checkpoint: Path, path: Path, exact: bool = False) -> None:
    """Write a Llama or Qwen3 checkpoint as llama.cpp's converter does, without a tokenizer.

    Args:
        checkpoint: its folder in Hugging Face layout.
        path: the file to write.
        exact: in 32 bits, not 16.
    """
    import gguf
    from safetensors import safe_open

    shape = Shape(checkpoint, json.loads((checkpoint / "config.json").read_text()))
    config = shape.config
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(shape.rope["rope_theta"])
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if exact else gguf.LlamaFileType.MOSTLY_F16)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    sources = [(name, source) for source in sorted(checkpoint.glob("*.safetensors")) for name in _names(source)]

    def values(name: str, source: Path) -> np.ndarray[Any, Any]:
        with safe_open(source, framework="pt") as stored:
            tensor = stored.get_tensor(name)
        if arch == gguf.MODEL_ARCH.LLAMA:  # of other families llama.cpp turns halves, as transformers does
            tensor = _interleaved(name, tensor, config)
        return (tensor.float() if exact or tensor.dim() == 1 else tensor.half()).numpy()

    divisors = _rope_divisors(checkpoint)
    if divisors is not None:
        writer.add_tensor_info("rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes)
    for name, source in sources:
        stem, suffix = name.rsplit(".", 1)
        tensor = values(name, source)
        writer.add_tensor_info(f"{names.get_name(stem)}.{suffix}", tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if divisors is not None:
        writer.write_tensor_data(divisors)
    for name, source in sources:
        writer.write_tensor_data(values(name, source))
    writer.close()


def _names(source: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(source, framework="pt") as stored:
        return list(stored.keys())


def _interleaved(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Meta's and llama.cpp's order of rotary halves: pairs side by side."""
    for part, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if part in name:
            rows = tensor.shape[0]
            halves = tensor.reshape(config[key], 2, rows // config[key] // 2, -1)
            return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    return tensor


def _rope_divisors(checkpoint: Path) -> np.ndarray[Any, Any] | None:
    """What Llama 3.1 and later divide their rotary frequencies by."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(checkpoint)
    if config.rope_parameters["rope_type"] == "default":
        return None
    import numpy as np

    scaled = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")[0].double().numpy()
    count = len(scaled)
    return (config.rope_parameters["rope_theta"] ** (-np.arange(count) / count) / scaled).astype(np.float32)


def quantize_gguf(whole: Path, path: Path, kind: str) -> None:
    """Quantize a file with llama.cpp's own defaults, which decide the head's type.

    Args:
        whole: the file in 16 or 32 bits.
        path: the file to write.
        kind: as llama.cpp names it, such as Q4_0.

    Raises:
        UserError: llama.cpp could not.
    """
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.nthread = 1
    failed = llama_cpp.llama_model_quantize(str(whole).encode(), str(path).encode(), settings)
    if failed:
        raise UserError(f"llama_model_quantize returned {failed} for {kind}")


def _make_gguf(checkpoint: Path, path: Path) -> None:
    """The child's side of making llama.cpp's file."""
    whole = path.with_name("f16.gguf")
    write_gguf(checkpoint, whole)
    quantize_gguf(whole, path, "Q4_0")
    whole.unlink()


_META = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
}


def write_meta_checkpoint(shape: Shape, folder: Path) -> None:
    """Write a Llama checkpoint in Meta's layout: `consolidated.pth` and `params.json`."""
    import torch
    from safetensors.torch import load_file

    config, weights = shape.config, {}
    for source in sorted(shape.checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(source).items():
            own = name
            for theirs, metas in _META.items():
                own = own.replace(theirs, metas)
            weights[own] = _interleaved(name, tensor, config)
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    torch.save(weights, folder / "consolidated.pth")
    rope = shape.rope
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": shape.head_dim,
        "hidden_dim": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "use_scaled_rope": rope["rope_type"] == "llama3",
        "rope_scale_factor": int(rope.get("factor", 1)),
    }
    (folder / "params.json").write_text(json.dumps(params))


# Running.


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

    def _run(self, tokens: list[int], start: int, every: bool = False) -> np.ndarray[Any, Any]:
        """Logits of the last token [vocabulary], or of `every` one of a batch [N, vocabulary]."""
        import numpy as np

        batch = self._batch
        for offset in range(0, len(tokens), self.BATCH):
            piece = tokens[offset : offset + self.BATCH]
            batch.n_tokens = len(piece)
            for i, token in enumerate(piece):
                batch.token[i], batch.pos[i] = token, start + offset + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = every or offset + i == len(tokens) - 1
            failed = self._api.llama_decode(self._context, batch)
            if failed:
                raise RuntimeError(f"llama_decode returned {failed}")
        if every:
            return np.ctypeslib.as_array(self._api.llama_get_logits(self._context), (len(tokens), self._vocabulary))
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

    def every_logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """[N, vocabulary] after each of N tokens from position 0 on, at most `BATCH`."""
        self._api.llama_memory_seq_rm(self._memory, 0, 0, -1)
        return self._run(tokens, 0, every=True).copy()


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
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous_bytes": sizes["RssAnon"], "file_bytes": sizes["RssFile"] + sizes["RssShmem"]}


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    server, idle_from = _Server(), (time.perf_counter(), time.process_time())
    for line in sys.stdin:
        waited, spun = time.perf_counter() - idle_from[0], time.process_time() - idle_from[1]
        request = json.loads(line)
        answer = getattr(server, request.pop("op"))(**request)
        answers.write(json.dumps({**answer, "waited_s": waited, "spun_s": spun}) + "\n")
        idle_from = (time.perf_counter(), time.process_time())


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        _make_gguf(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        _serve()
