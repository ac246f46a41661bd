"""How many instructions a program takes on an emulated arm64 core, per token: `python tools/bench_arm.py PROGRAM ...`.

The emulator counts them, so the figure is the same on any machine, up to some thousandths: the JVM around the library
interprets a little more or less. The library has one thread, for two of them spin while they wait. Counted are two
runs, of which the second does `TOKENS` more; the difference is theirs. It is no time: that is up to how a core overlaps
its instructions, and to its memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from arm import SOURCES, Arm, make_arm
from artifacts import BuildError
from steps import step

KINDS = ("instructions", "dot products", "products of matrices", "loads and stores", "SIMD")  # as count.c writes them
TOKENS = 8
CORE = "cortex-a76"


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


def busiest(lines: Sequence[str]) -> list[int]:
    """Counts of the thread that computes: with most dot products, or where there are none with most SIMD."""
    threads = [[int(count) for count in line.split()] for line in lines]
    return max(threads, key=lambda counts: (counts[1] + counts[2], counts[4]))


def counted(machine: Arm, counter: Path, program: Path, prefill: int, chunk: int, tokens: int) -> list[int]:
    """What the library executes for a prompt of so many tokens and so many that follow one by one."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "counts"
        os.environ["COUNT_OUT"] = str(out)
        given = (str(each) for each in (prefill, chunk, tokens))
        done = machine.run(CORE, "count", program, *given, one_thread=True, plugin=str(counter), timeout=3600)
        if done.returncode:
            raise BuildError(f"{program} does not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return busiest(out.read_text().splitlines())


def per_token(machine: Arm, counter: Path, program: Path, position: int, chunk: int) -> list[float]:
    """Millions of instructions of a token at a position, by `KINDS`."""
    less, more = (counted(machine, counter, program, position, chunk, tokens) for tokens in (TOKENS, 2 * TOKENS))
    return [(b - a) / TOKENS / 1e6 for a, b in zip(less, more, strict=True)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Instructions per token on an emulated arm64 core.")
    parser.add_argument("program", type=Path, nargs="+", help="a .pte of a model that answers")
    parser.add_argument("--positions", type=int, nargs="+", default=[64], help="where the counted tokens are")
    parser.add_argument("--chunk", type=int, default=64, help="tokens of a prompt that are fed at a time")
    given = parser.parse_args()
    try:
        machine, counter = make_arm(), make_counter()
        sys.stdout.write(
            f"millions per token, {CORE}, one thread\n{'position':>9}" + "".join(f"{k:>22}" for k in KINDS)
        )
        for program in given.program:
            sys.stdout.write(f"\n{program}\n")
            for position in given.positions:
                found = per_token(machine, counter, program.resolve(), position, given.chunk)
                sys.stdout.write(f"{position:>9}" + "".join(f"{each:>22.3f}" for each in found) + "\n")
                sys.stdout.flush()
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
