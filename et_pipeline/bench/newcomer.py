"""What others ask of a newcomer, beside ours: from an empty environment to what runs, for one checkpoint.

`python -m et_pipeline.bench.newcomer WHEEL CHECKPOINT` installs each into an environment of its own, runs the commands
that its documentation gives for 4-bit weights on a phone's or a PC's processor, and writes
`docs/results/newcomer.json`: processor time, memory, and what lies there at the end. Where a command ends in an error,
it does what a newcomer would read out of that error, and tries again. It takes 10 GB of disk, most of it GPU packages
of torch, and an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.errors import EXIT_GATE
from et_pipeline.host import machine, only_linux
from et_pipeline.report.tables import markdown
from et_pipeline.report.words import size

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GPU_PACKAGES = ("nvidia*", "triton*", "cuda*")


class Peer(NamedTuple):
    """How one is installed and asked; `{checkpoint}` and `{wheel}` are put in.

    Its mends are what a newcomer would do about errors, as they come: each is used only when a command failed.
    """

    packages: Sequence[str]
    commands: Sequence[str]
    pythons: str  # as its metadata say
    gives: str
    makes: str  # a pattern for what must lie there at the end; Olive ends with exit code 0 after some errors
    mends: Sequence[str] = ()


PEERS = {
    "et_pipeline": Peer(
        ("-c", str(ROOT / "constraints.txt"), "{wheel}"),
        ("et-pipeline model=custom model.source={checkpoint} task=chat recipe=8da4w model.max_context=2048",),
        "3.11 and newer",
        "`.pte`, tokenizer, manifest; run, compared with the original, measured",
        "bundles/*/*.pte",
    ),
    "optimum-cli": Peer(
        ("optimum-executorch",),
        (
            "optimum-cli export executorch --model {checkpoint} --task text-generation --recipe xnnpack "
            "--use_custom_sdpa --use_custom_kv_cache --qlinear 8da4w --qembedding 8w --max_seq_len 2048 "
            "--output_dir out",
        ),
        "3.10 and newer",
        "`.pte`",
        "out/*.pte",
    ),
    "Olive": Peer(
        ("olive-ai", "onnxruntime", "onnxruntime-genai", "requests"),  # which it imports, and does not ask for
        (
            # its own 128 does not divide SmolLM2's 576, which it says only after all of GPTQ
            "olive optimize -m {checkpoint} --precision int4 --block_size 32 --provider CPUExecutionProvider "
            "--device cpu -o out",
        ),
        "3.10 and newer",
        "ONNX with tokenizer, for onnxruntime-genai",
        "out/**/*.onnx",
        # the newest before its module that Olive 0.13 patches was moved, and its builder asked for other arguments
        ("pip install datasets", "pip install 'onnxruntime-genai<0.15'"),
    ),
    "export_llm": Peer(
        ("executorch", "torchtune"),  # whose converter it takes
        (
            "python -m executorch.examples.models.smollm2.convert_weights {checkpoint} weights.pth",
            "python -m executorch.extension.llm.export.export_llm base.model_class=smollm2 base.checkpoint=weights.pth "
            "base.params={params} model.use_kv_cache=true model.use_sdpa_with_kv_cache=true "
            "model.dtype_override=fp32 export.max_seq_length=2048 export.max_context_length=2048 "
            "quantization.qmode=8da4w quantization.group_size=32 quantization.embedding_quantize=\\'8,0\\' "
            "backend.xnnpack.enabled=true backend.xnnpack.extended_ops=true",
        ),
        "3.10 to 3.14",
        "`.pte`",
        "*.pte",
        (
            # the commit that ExecuTorch's own requirements name: no release of torchtune knows the torchao it asks for
            "pip install 'torchtune @ git+https://github.com/pytorch/torchtune.git"
            "@3c1872ace149f03ef4ffec765d3f0a5fd0399497'",
            "pip install torchvision",
        ),
    ),
}


def ask(peer: Peer, python: str, places: dict[str, str], folder: Path) -> dict[str, Any]:
    """Install a peer and run its commands, in a folder of its own; an error ends it and is kept.

    For a process without other children: it waits for all that commands leave behind.
    """
    venv = folder / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    environment |= {"ET_PIPELINE_CACHE": str(folder / "cache"), "PYTHONPATH": ""}
    packages = [package.format(**places) for package in peer.packages]
    installed = _run(["pip", "install", "--quiet", *packages], folder, environment)
    before = set(folder.rglob("*"))
    steps: list[dict[str, Any]] = []
    mends = iter(peer.mends)
    for command in peer.commands:
        asked = partial(_run, shlex.split(command.format(**places)), folder, environment)
        makes = peer.makes if command == peer.commands[-1] else None
        steps.append(asked(makes))
        while _failed(steps[-1]) and (mend := next(mends, None)):
            steps.append({"mend": mend, **_run(shlex.split(mend), folder, environment)})
            steps.append(asked(makes))
        if _failed(steps[-1]):
            break
    # counted here, for a mend may have installed more
    gpu = [path for pattern in GPU_PACKAGES for path in venv.glob(f"lib/*/site-packages/{pattern}")]
    new = set(folder.rglob("*")) - before
    made = [path for path in new if path.is_file() and not {"cache", "venv"}.intersection(path.parts)]
    return {
        "install": installed,
        "bytes": _bytes([venv]),
        "gpu_bytes": _bytes(gpu),
        "steps": steps,
        "made": {str(path.relative_to(folder)): path.stat().st_size for path in sorted(made)},
    }


def _failed(step: dict[str, Any]) -> bool:
    return bool(step["code"] or step.get("made_nothing"))


def _run(command: Sequence[str], folder: Path, environment: dict[str, str], makes: str | None = None) -> dict[str, Any]:
    log = folder / "log"
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a command leaves behind becomes ours, with its cost
    began = time.monotonic()
    with log.open("wb") as stream:
        child = subprocess.Popen(
            ["/usr/bin/env", *command], cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    cpu_s, peak = 0.0, 0
    with contextlib.suppress(ChildProcessError):  # there is none left
        while True:
            pid, status, usage = os.wait4(-1, 0)
            cpu_s += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss * 1024)
            if pid == child.pid:
                child.returncode = os.waitstatus_to_exitcode(status)
    made_nothing = not child.returncode and makes is not None and not any(folder.glob(makes))
    failed = child.returncode or made_nothing
    return {
        "code": child.returncode,
        **({"made_nothing": True} if made_nothing else {}),
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(cpu_s, 1),
        "peak_rss_bytes": peak,  # of the largest of its processes
        "last_words": log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:] if failed else [],
    }


def _bytes(paths: Sequence[Path]) -> int:
    return sum(int(subprocess.check_output(["du", "-sb", path]).split()[0]) for path in paths)


def table(result: dict[str, Any]) -> str:
    """The peers side by side, in Markdown."""
    rows: list[list[Any]] = [
        [
            "",
            "Pythons",
            "commands after it is installed",
            "environment",
            "without GPU packages",
            "CPU minutes",
            "memory",
            "gives",
        ]
    ]
    for name, found in result["peers"].items():
        peer, steps = PEERS[name], found["steps"]
        mends = [step["mend"] for step in steps if "mend" in step]
        gives, last = peer.gives, steps[-1]
        if _failed(last):
            made = f"{gives}; " if last["code"] == EXIT_GATE else ""
            nothing = ", and made nothing" if "made_nothing" in last else ""
            gives = f"{made}**ended with exit code {last['code']}{nothing}**: {_words(last)}"
        for before, step in pairwise(steps):
            if "mend" in step:
                gives += f"; before, {_words(before)}, which asked for `{step['mend']}`"
        rows.append(
            [
                name,
                peer.pythons,
                f"{len(peer.commands)} + {len(mends)} for errors" if mends else len(peer.commands),
                size(found["bytes"]),
                size(found["bytes"] - found["gpu_bytes"]),
                f"{sum(step['cpu_s'] for step in steps) / 60:.1f}",
                size(max(step["peak_rss_bytes"] for step in steps)),
                gives,
            ]
        )
    return f"{markdown(rows)}\n\nMeasured {result['date']} on {result['machine']}, {result['checkpoint']}.\n"


def _words(failed: dict[str, Any]) -> str:
    return "`" + failed["last_words"][-1].replace("|", r"\|") + "`"


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.newcomer",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.newcomer dist/et_pipeline.whl SmolLM2-135M-Instruct",
    )
    parser.add_argument("wheel", type=Path, help="of et_pipeline; make package")
    parser.add_argument("checkpoint", type=Path, help="a folder with SmolLM2-135M-Instruct")
    parser.add_argument("--params", type=Path, help="its params.json for export_llm, from ExecuTorch's repository")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="may be repeated; all by default")
    return parser


def main() -> None:
    """Measure those that are named; what was measured of others stays."""
    given = command_line().parse_args()
    only_linux("et_pipeline.bench.newcomer")
    path = ROOT / "docs/results/newcomer.json"
    peers = json.loads(path.read_text(encoding="utf-8"))["peers"] if path.is_file() else {}
    places = {name: str(path.resolve()) for name, path in vars(given).items() if isinstance(path, Path)}
    for name in given.only or PEERS:
        with tempfile.TemporaryDirectory() as folder:
            peers[name] = ask(PEERS[name], sys.executable, places, Path(folder))
        sys.stdout.write(json.dumps({name: peers[name]}, indent=1) + "\n")
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "checkpoint": given.checkpoint.name,
            "peers": peers,
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
