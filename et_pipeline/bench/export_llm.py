"""ExecuTorch's own exporter on LLaMA-2-7B, under a memory limit that protects the machine: where it ends.

`python -m et_pipeline.bench.export_llm [layers ...]` writes `docs/results/export_llm.json`: for each number of layers
(4 and all 32 unless said otherwise) what `executorch.extension.llm.export.export_llm` took for the same recipe and
context as `experiment=full_size`. Weights are zeros, which cost as much memory and time as any others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from et_pipeline.bench.docs import RESULTS, ROOT
from et_pipeline.host import anonymous_bytes, children_cpu_seconds, machine, memory_bytes, only_linux

LIMIT_SHARE = 0.65  # of the machine's memory; others work on it too
HIDDEN, INTERMEDIATE, HEADS, VOCABULARY, LAYERS, CONTEXT = 4096, 11008, 32, 32000, 32, 2048
COMMAND = (
    "base.model_class=llama2 base.checkpoint={folder}/consolidated.pth base.params={folder}/params.json "
    "model.use_kv_cache=true model.use_sdpa_with_kv_cache=true model.dtype_override=fp32 "
    "export.max_seq_length={context} export.max_context_length={context} "
    "export.output_dir={folder} export.output_name=model.pte "
    "quantization.qmode=8da4w quantization.group_size=32 quantization.embedding_quantize='8,0' "
    "backend.xnnpack.enabled=true backend.xnnpack.extended_ops=true"
)


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write weights of that many layers in Meta's layout, bf16 zeros, and `params.json`; returns their number."""
    import numpy as np
    import torch

    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings": (VOCABULARY, HIDDEN),
        "norm": (HIDDEN,),
        "output": (VOCABULARY, HIDDEN),
    }
    for layer in range(layers):
        own: dict[str, tuple[int, ...]] = {f"attention.w{part}": (HIDDEN, HIDDEN) for part in "qkvo"}
        own |= {"feed_forward.w1": (INTERMEDIATE, HIDDEN), "feed_forward.w3": (INTERMEDIATE, HIDDEN)}
        own |= {"feed_forward.w2": (HIDDEN, INTERMEDIATE), "attention_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    # The system gives numpy's zeros page by page when they are written to, and they never are.
    weights = {
        f"{name}.weight": torch.from_numpy(np.zeros(shape, "i2")).view(torch.bfloat16) for name, shape in shapes.items()
    }
    torch.save(weights, folder / "consolidated.pth")
    config: dict[str, float] = {"dim": HIDDEN, "n_layers": layers, "n_heads": HEADS, "vocab_size": VOCABULARY}
    config |= {"multiple_of": 256, "norm_eps": 1e-5, "hidden_dim": INTERMEDIATE}
    (folder / "params.json").write_text(json.dumps(config), encoding="utf-8")
    return sum(weight.numel() for weight in weights.values())


def export(layers: int, limit: int) -> dict[str, Any]:
    """Run the exporter in a process of its own, which is killed when its anonymous memory exceeds `limit` bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_checkpoint(folder, layers)
        words = COMMAND.format(folder=folder, context=CONTEXT).split()
        log = folder / "log"
        started = time.monotonic()
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", "executorch.extension.llm.export.export_llm", *words],
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        seen = {"peak": 0, "killed": False}
        watcher = threading.Thread(target=_guard, args=(child, limit, seen))
        watcher.start()
        before = children_cpu_seconds()
        code = child.wait()
        spent = children_cpu_seconds() - before
        watcher.join()
        program = folder / "model.pte"
        lines = log.read_text(errors="replace", encoding="utf-8").splitlines()
        steps = [line for line in lines if "INFO" in line] or lines
        return {
            "layers": layers,
            "weights": weights,
            "finished": code == 0 and program.is_file(),
            "killed_at_limit": seen["killed"],
            "wall_s": round(time.monotonic() - started, 1),
            "cpu_s": round(spent, 1),
            "peak_rss_bytes": seen["peak"],
            "pte_bytes": program.stat().st_size if program.is_file() else None,
            "last_words": [line.replace(name, ".")[:160] for line in (steps if code < 0 else lines)[-3:]],
        }


def _guard(child: subprocess.Popen[bytes], limit: int, seen: dict[str, Any]) -> None:
    while (size := anonymous_bytes(child.pid)) is not None:
        seen["peak"] = max(seen["peak"], size)
        if size > limit:
            seen["killed"] = True
            child.kill()
            return
        time.sleep(0.05)


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.export_llm",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.export_llm 4",
    )
    parser.add_argument("layers", nargs="*", type=int, default=[4, LAYERS], help="how many layers the model has")
    return parser


def main() -> None:
    """Measure, and keep the figures."""
    asked = command_line().parse_args()
    only_linux("et_pipeline.bench.export_llm")
    limit = int(LIMIT_SHARE * memory_bytes())
    runs = []
    for layers in asked.layers:
        runs.append(export(layers, limit))
        sys.stdout.write(json.dumps(runs[-1], indent=1) + "\n")
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": "python -m executorch.extension.llm.export.export_llm "
        + COMMAND.format(folder=".", context=CONTEXT),
        "limit_bytes": limit,
        "runs": runs,
    }
    (ROOT / RESULTS / "export_llm.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
