"""Our programs beside llama.cpp, onnxruntime-genai and ExecuTorch's own exporter, on this host.

`python -m et_pipeline.bench.host` makes each contender's file from the same random weights, unless an earlier
run did, and measures them in one run: every contender waits in a process of its own, and they are asked in turn, round
after round, so that what else happens on the machine meets all of them. `--help` lists what can be chosen.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from et_pipeline.bench import contenders
from et_pipeline.bench.host_tables import (
    DEEP,
    ITEMS,
    LLAMA_CPP,
    MEMORY,
    OURS,
    PEERS,
    PREFILL_128,
    READ,
    SHALLOW,
    Item,
    tables,
)
from et_pipeline.bench.peer_files import Shape
from et_pipeline.bench.processor import LEVELS
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.source import prepare
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.host import cpu_seconds, expanded, machine, only_linux
from et_pipeline.job.composed import composed
from et_pipeline.pipeline import run
from et_pipeline.report import progress
from et_pipeline.settings import Settings

SHAPES = {"S": "smollm2_135m", "M": "llama3_2_1b"} | {
    name: name
    for name in ("qwen3_0_6b", "qwen3_5_0_8b", "lfm2_350m")  # the last two remember states: ours alone
}
RECIPES = {"8da4w-g32": ("recipe=8da4w",), "8da4w-g0": ("recipe=8da4w", "recipe.group_size=0")}
CONTEXT = 2304  # what is measured ends at 2048 + 128
LOADS = 3
STAGES = ("quantize", "export", "lower")
_LIBRARIES = ("executorch", "torch", "llama-cpp-python", "onnxruntime-genai", "onnxruntime")


class Contender(NamedTuple):
    """One program of one shape; what making it took is None where that is not known."""

    name: str
    kind: str
    path: Path
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None


class Child:
    """A contender's process, loaded and waiting."""

    def __init__(
        self, contender: Contender, threads: int, vocabulary: int, log: Path, processor: str | None = None
    ) -> None:
        self.name, self.spun_s, self.waited_s = contender.name, 0.0, 0.0
        self._log = log
        with log.open("ab") as noise:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "et_pipeline.bench.engines", *([processor] if processor else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        self.load_s = self.ask(
            op="load",
            kind=contender.kind,
            path=str(contender.path),
            threads=threads,
            context=CONTEXT,
            vocabulary=vocabulary,
        ).get("s", 0.0)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}; {self._log} has what it said")
        answer = json.loads(line)
        self.waited_s += answer["waited_s"]
        self.spun_s += answer["spun_s"]
        return answer

    def time(self, item: Item) -> float:
        """Seconds that an item took."""
        return float(self.ask(op=item.op, count=item.tokens, start=item.start)["s"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interleave(
    clocks: Mapping[str, tuple[Callable[[Item], float], Sequence[Item]]],
    rounds: int,
    order: Sequence[Item],
) -> dict[str, dict[str, list[float]]]:
    """Time every item of every contender, round after round, one at a time.

    Within a round all contenders do an item before any does the next. Each round begins with another contender.

    Args:
        clocks: by contender, what times an item, and which items it has.
        rounds: how often.
        order: all items.

    Returns:
        Seconds by contender and item, one per round.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in clocks}
    names = list(clocks)
    for count in range(rounds):
        sys.stderr.write(f"round {count + 1} of {rounds}\n")
        shift = count % len(names)
        for item in order:
            for name in names[shift:] + names[:shift]:
                clock, items = clocks[name]
                if item in items:
                    seconds[name].setdefault(item.name, []).append(clock(item))
    return seconds


def measure(
    found: Sequence[Contender],
    vocabulary: int,
    threads: int,
    rounds: int,
    logs: Path,
    processor: str | None = None,
) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Measure contenders of one shape with one number of threads.

    Returns:
        By name: `load_s`, `seconds` by item, `memory`, `idle_share` (of a core, while others were asked), `logits`;
        and the seconds of each pass over the array of `READ`.
    """
    loads: dict[str, list[float]] = {each.name: [] for each in found}
    everyone = [*found, Contender(MEMORY, MEMORY, Path())]
    children: list[Child] = []
    try:
        for last in range(min(LOADS, rounds)):
            for contender in everyone:
                child = Child(contender, threads, vocabulary, logs / f"{contender.kind}.log", processor)
                if contender.kind != MEMORY:
                    loads[contender.name].append(child.load_s)
                if last == min(LOADS, rounds) - 1:
                    children.append(child)
                else:
                    child.close()
        logits = {child.name: child.ask(op="logits", count=PREFILL_128.tokens)["logits"] for child in children[:-1]}
        clocks = {
            child.name: (child.time, (READ,) if each.kind == MEMORY else ITEMS if each.kind in DEEP else SHALLOW)
            for child, each in zip(children, everyone, strict=True)
        }
        order = (READ, *ITEMS)
        interleave(clocks, 1, order)  # warm up
        seconds = interleave(clocks, rounds, order)
        results = {
            child.name: {
                "load_s": loads[child.name],
                "seconds": seconds[child.name],
                "memory": child.ask(op="memory"),
                "idle_share": child.spun_s / child.waited_s,
                "logits": logits[child.name],
            }
            for child in children[:-1]
        }
    finally:
        for child in children:
            child.close()
    return results, seconds[MEMORY][READ.name]


def settings_of(model: str, recipe: Iterable[str], cache: Path) -> Settings:
    """The pipeline's settings of one of our programs."""
    words = [f"model={model}", "model.source=random", f"model.max_context={CONTEXT}", "task=chat", "until=lower"]
    return composed([*words, *recipe, f"paths.cache={cache}"])


def make_ours(settings: Settings, name: str, logs: Path) -> Contender:
    """Make one of our programs through the pipeline."""
    face = progress.face(quiet=False)
    try:
        (made,) = run([settings], face, logs).programs
    finally:
        face.close()
    costs = [made.entries[stage].cost for stage in STAGES]
    return Contender(
        name,
        OURS,
        made.entries["lower"].folder / "model.pte",
        round(sum(cost["cpu_s"] for cost in costs), 1),
        int(max(cost["peak_rss_bytes"] for cost in costs)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        result = bench(command_line().parse_args(arguments))
    except UserError as error:
        sys.stderr.write(f"bench.host: {error}\n")
        sys.exit(EXIT_USER)
    sys.stdout.write(tables(result))


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.host",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.host --shapes S --threads 2 --rounds 3",
    )
    parser.add_argument(
        "--shapes",
        default="S,M",
        help=f"of {', '.join(SHAPES)} (S: SmolLM2-135M, M: Llama-3.2-1B); S,M by default",
    )
    parser.add_argument("--threads", default="2,1", help="numbers of threads, one after the other")
    parser.add_argument("--rounds", type=int, default=10, help="how often each figure is measured")
    parser.add_argument("--only", help="names of contenders, the others are left out")
    parser.add_argument("--processor", choices=LEVELS, help="use the kernels of an older processor than this one")
    parser.add_argument("--pte", action="append", default=[], metavar="NAME=PATH", help="another .pte; may be repeated")
    parser.add_argument("--cache", type=Path, default=None, help="where files are made; default: the pipeline's cache")
    parser.add_argument("--json", type=Path, default=None, help="keep the figures in this file")
    return parser


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Make, measure, and keep the figures if a file is named.

    Raises:
        UserError: an option names nothing that there is, or the system is not Linux.
    """
    only_linux("et_pipeline.bench.host")
    names = [f"{OURS} {recipe}" for recipe in RECIPES] + list(PEERS.values())
    extra = dict(_pair(word) for word in options.pte)
    names += list(extra)
    only = options.only.split(",") if options.only else names
    for key, chosen, known in (("only", only, names), ("shapes", options.shapes.split(","), list(SHAPES))):
        for word in chosen:
            if word not in known:
                raise UserError(f"--{key}={word} is none of {', '.join(known)}")
    home = os.environ.get("ET_PIPELINE_CACHE") or Path.home() / ".cache/et_pipeline"
    cache = expanded(Path(options.cache or home)).resolve()
    logs = Path(tempfile.mkdtemp(prefix="host_bench"))
    started, usage, busy = time.monotonic(), cpu_seconds(), _machine_cpu()
    left_out: dict[str, str] = {}
    shapes = []
    for key in options.shapes.split(","):
        shapes.append(_bench_shape(SHAPES[key], only, extra, options, cache, logs, left_out))
    wall = time.monotonic() - started
    others = (_machine_cpu() - busy - (cpu_seconds() - usage)) / (wall * (os.cpu_count() or 1))
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": "python -m et_pipeline.bench.host"
        + (f" --processor {level}" if (level := options.processor) else ""),
        "rounds": options.rounds,
        "others_cpu_share": round(max(0.0, others), 3),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        "left_out": left_out,
        "shapes": shapes,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _pair(word: str) -> tuple[str, Path]:
    name, _, path = word.partition("=")
    if not path or not Path(path).is_file():
        raise UserError(f"--pte={word} is not NAME=PATH with the path of a .pte")
    return name, Path(path).resolve()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine_cpu() -> float:
    """CPU seconds of everybody since the machine started, those stolen by its host included."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, first)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _bench_shape(
    model: str,
    only: Sequence[str],
    extra: Mapping[str, Path],
    options: argparse.Namespace,
    cache: Path,
    logs: Path,
    left_out: dict[str, str],
) -> dict[str, Any]:
    found = []
    for recipe, words in RECIPES.items():
        if f"{OURS} {recipe}" in only:
            found.append(make_ours(settings_of(model, words, cache), f"{OURS} {recipe}", logs))
    found += [Contender(name, OURS, path) for name, path in extra.items() if name in only]
    settings = settings_of(model, (), cache)
    checkpoint, _ = prepare(settings.model.checkpoint, settings.seed, Place(cache, logs))
    shape = Shape(checkpoint, json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    for kind, name in PEERS.items():
        if name not in only:
            continue
        reason = contenders.missing(kind)
        if reason is None and options.processor:
            reason = contenders.too_new(kind, options.processor)
        if reason is not None:
            left_out[name] = reason
            continue
        try:
            made = contenders.make(kind, shape, CONTEXT, cache / "host_bench" / model)
        except UserError as error:
            left_out[f"{name}, {model}"] = str(error)
        else:
            found.append(Contender(name, kind, *made))
    if not found:
        raise UserError(f"there is nobody to measure with {model}: {'; '.join(left_out.values())}")
    runs, reads = {}, {}
    for threads in map(int, options.threads.split(",")):
        runs[threads], reads[threads] = measure(
            found, shape.config["vocab_size"], threads, options.rounds, logs, options.processor
        )
    return {
        "model": model,
        "read_bytes": READ.tokens,
        "read_s": {str(threads): times for threads, times in reads.items()},
        "contenders": [_summary(each, shape, runs, found[0].name) for each in found],
    }


def _summary(each: Contender, shape: Shape, runs: Mapping[int, Mapping[str, Any]], first: str) -> dict[str, Any]:
    import numpy as np

    any_threads = next(iter(runs.values()))
    one, other = (np.array(any_threads[name]["logits"], np.float64) for name in (first, each.name))
    return {
        "name": each.name,
        "kind": each.kind,
        "file_bytes": contenders.file_bytes(each.path),
        "weights_read_bytes": contenders.weights_read(each.kind, each.path, shape),
        "kv_bytes": contenders.kv_bytes(each.kind, shape),
        "head_type": contenders.head_type(each.path) if each.kind == LLAMA_CPP else None,
        "cosine": float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)),
        "cpu_s": each.cpu_s,
        "peak_rss_bytes": each.peak_rss_bytes,
        "threads": {
            str(threads): {key: value for key, value in run[each.name].items() if key != "logits"}
            for threads, run in runs.items()
        },
    }


if __name__ == "__main__":
    main()
