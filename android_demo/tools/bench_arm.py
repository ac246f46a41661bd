"""How many instructions a program takes on an emulated arm64 core, per token: `python tools/bench_arm.py PROGRAM ...`.

The emulator counts them, so the figure is the same on any machine; seldom the JVM around the library does something of
its own in between, 4.4 M instructions. The library has one thread, for two of them spin while they wait. Counted are
two runs, of which the second does more; the difference is what that took. It is no time: that is up to how a core
overlaps its instructions, and to its memory.

`--json FILE --name NAME` keeps the figures as those of NAME; `--check FILE` compares with what is kept instead, and
fails where a program takes `ALLOWED` more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from arm import SOURCES, Arm, make_arm
from arm_llama import CORE, Llama, make_llama
from artifacts import BuildError
from steps import step

KINDS = ("instructions", "dot products", "products of matrices", "loads and stores", "SIMD")  # as count.c writes them
TOKENS = 16  # a multiple of the steps in which attention reads a cache
ALLOWED = 0.03

Count = Callable[[int, int, int], list[int]]  # from a position on: tokens of a prompt, and such that follow one by one


def make_counter() -> Path:
    """The emulator's plug-in."""
    source = SOURCES / "count.c"

    def make(folder: Path) -> None:
        command: list[str | Path] = [
            "cc",
            "-O2",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            source,
            "-o",
            folder / "libcount.so",
        ]
        subprocess.run(command, check=True)

    return step("arm-counter", "the counter of instructions", [source], make) / "libcount.so"


def between_marks(lines: Sequence[str]) -> list[int]:
    """Counts between the last two marks, which the thread that computes set."""
    marks = [[int(count) for count in line.split()[1:]] for line in lines if line.startswith("mark")]
    one, two = marks[-2:]
    return [b - a for a, b in zip(one, two, strict=True)]


def counted(run: Callable[[], subprocess.CompletedProcess[str]], what: object) -> list[str]:
    """What the counter writes while something runs."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "counts"
        os.environ["COUNT_OUT"] = str(out)
        done = run()
        if done.returncode:
            raise BuildError(f"{what} does not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return out.read_text().splitlines()


def of_program(machine: Arm, counter: Path, program: Path, chunk: int) -> Count:
    """Counts of a .pte in Android's library."""

    def count(start: int, prompt: int, tokens: int) -> list[int]:
        given = [str(each) for each in (start, prompt, chunk, tokens)]
        run = partial(machine.run, CORE, "count", program, *given, one_thread=True, plugin=str(counter), timeout=3600)
        return between_marks(counted(run, program))

    return count


def of_gguf(llama: Llama, counter: Path, file: Path) -> Count:
    """Counts of a GGUF file in llama.cpp."""

    def count(start: int, prompt: int, tokens: int) -> list[int]:
        return between_marks(counted(partial(llama.run, file, start, prompt, tokens, str(counter)), file))

    return count


def decode(count: Count, position: int) -> list[float]:
    """Millions of instructions of a token at a position, by `KINDS`."""
    less, more = (count(position, 0, tokens) for tokens in (TOKENS, 2 * TOKENS))
    return [(b - a) / TOKENS / 1e6 for a, b in zip(less, more, strict=True)]


def prefill(count: Count, length: int) -> list[float]:
    """Millions of instructions of a token in the second half of a prompt of that length, by `KINDS`."""
    half = length // 2
    less, more = (count(0, prompt, 0) for prompt in (half, length))
    return [(b - a) / (length - half) / 1e6 for a, b in zip(less, more, strict=True)]


def figures(count: Count, positions: Sequence[int], prompts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each position and for each length of a prompt."""
    for measure, places in ((decode, positions), (prefill, prompts)):
        for at in places:
            found = (round(each, 3) for each in measure(count, at))
            yield {"what": measure.__name__, "at": at, **dict(zip(KINDS, found, strict=True))}


def keep(file: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows into a file of results; those of other names, and of this one's other places, stay."""
    kept: dict[str, Any] = {"core": CORE, "programs": {}}
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
    places = {(row["what"], row["at"]) for row in rows}
    others = [row for row in kept["programs"].get(name, []) if (row["what"], row["at"]) not in places]
    kept["programs"][name] = sorted([*others, *rows], key=lambda row: (row["what"], row["at"]))
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def grown(kept: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[str]:
    """What takes more instructions than is kept, in sentences."""
    before = {(row["what"], row["at"]): row["instructions"] for row in kept}
    return [
        f"{row['what']} at {row['at']} takes {row['instructions']} M instructions, "
        f"{100 * (row['instructions'] / before[place] - 1):.1f} % more than the {before[place]} M that are kept"
        for row in rows
        if (place := (row["what"], row["at"])) in before and row["instructions"] > (1 + ALLOWED) * before[place]
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Instructions per token on an emulated arm64 core.")
    parser.add_argument("program", type=Path, nargs="+", help="a .pte that answers, or a .gguf for llama.cpp")
    parser.add_argument("--positions", type=int, nargs="*", default=[64], help="where the counted tokens are")
    parser.add_argument("--prompts", type=int, nargs="*", default=[], help="lengths of prompts")
    parser.add_argument("--chunk", type=int, default=128, help="tokens of a prompt that are fed at a time")
    parser.add_argument("--name", help="of the program in the file of results; without it the file's own name")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument("--check", type=Path, help="compare with the figures here")
    given = parser.parse_args()
    worse: list[str] = []
    try:
        machine, counter = make_arm(), make_counter()
        sys.stdout.write(f"millions per token, {CORE}, one thread\n{'':>14}" + "".join(f"{k:>22}" for k in KINDS))
        for program in given.program:
            llama = program.suffix == ".gguf"
            count = (
                of_gguf(make_llama(), counter, program.resolve())
                if llama
                else of_program(machine, counter, program.resolve(), given.chunk)
            )
            name = given.name or program.stem
            sys.stdout.write(f"\n{program}\n")
            rows = []
            for row in figures(count, given.positions, given.prompts):
                rows.append(row)
                places = f"{row['what']:>8}{row['at']:>6}"
                sys.stdout.write(places + "".join(f"{row[kind]:>22.3f}" for kind in KINDS) + "\n")
                sys.stdout.flush()
                if given.json:
                    keep(given.json, name, rows)
            if given.check:
                worse += grown(json.loads(given.check.read_text(encoding="utf-8"))["programs"].get(name, []), rows)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    if worse:
        sys.exit("\n".join(worse))


if __name__ == "__main__":
    main()
