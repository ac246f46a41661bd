"""Which Android APIs the app uses: public ones only, and those newer than minSdk are listed with their guards.

The framework that the app is compiled against is Android itself, with all that is hidden in an SDK, and it is newer
than what the app must run on: the compiler accepts either. `ApiCheck.java` finds in the classes what minSdk lacks, and
`newer_apis.txt` has what is meant to be there. Uses by reflection, and resources, are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from artifacts import BuildError

LISTED = Path(__file__).with_name("newer_apis.txt")
CHECKER = Path(__file__).with_name("ApiCheck.java")


class Use(NamedTuple):
    """Something that minSdk lacks, in one source file."""

    what: str
    source: str
    lines: str
    known: bool  # to the highest API level whose signatures are there

    def __str__(self) -> str:
        place = f"{self.source}, line {self.lines}" if self.lines else self.source
        return f"{self.what} ({place})"


class Entry(NamedTuple):
    """A line of the list."""

    what: str
    level: int
    source: str
    guard: str


def read_listed(path: Path = LISTED) -> list[Entry]:
    """Reads the list: one entry a line, '#' begins a comment."""
    entries: dict[tuple[str, str], Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        fields = [field.strip() for field in text.split("|")]
        if len(fields) != 4 or not all(fields) or not fields[1].isdecimal():
            raise BuildError(f"{path.name}, line {number}: expected 'what is used | API level | source file | guard'.")
        what, level, source, guard = fields
        if (what, source) in entries:
            raise BuildError(f"{path.name}, line {number}: {what} is listed twice for {source}.")
        entries[what, source] = Entry(what, int(level), source, guard)
    return list(entries.values())


def read_uses(output: str) -> list[Use]:
    """What the checker printed.

    Raises:
        BuildError: It looked at nothing, and so found nothing.
    """
    *lines, total = output.splitlines() or [""]
    name, _, count = total.partition("\t")
    if name != "references" or not count.isdecimal() or not int(count):
        raise BuildError(f"{CHECKER.name} found no classes to check.")
    uses = []
    for line in lines:
        kind, what, source, numbers = line.split("\t")
        uses.append(Use(what, source, numbers, kind == "newer"))
    return uses


def differences(
    uses: Iterable[Use], listed: Iterable[Entry], sources: Mapping[str, str], lowest: int, highest: int
) -> list[str]:
    """What is wrong, a sentence each.

    Args:
        uses: What was found in the classes.
        listed: What may be there.
        sources: The app's source files, text by name.
        lowest: minSdk.
        highest: The highest API level whose signatures are there.
    """
    entries = {(entry.what, entry.source): entry for entry in listed}
    found = {(use.what, use.source): use for use in uses}
    problems = []
    for key, use in sorted(found.items()):
        entry = entries.get(key)
        if entry is None and use.known:
            problems.append(f"{use} is newer than API {lowest}: guard it, and list it in {LISTED.name}.")
        elif entry is None:
            problems.append(
                f"{use} is in no public API up to {highest}: it is hidden, or newer; only what is newer may be listed "
                f"in {LISTED.name}."
            )
        elif use.known and not lowest < entry.level <= highest:
            problems.append(
                f"{use}: {LISTED.name} says API {entry.level}, and it came after {lowest}, by {highest} at the latest."
            )
        elif not use.known and entry.level <= highest:
            problems.append(f"{use}: {LISTED.name} says API {entry.level}, and no public API up to {highest} has it.")
    for (what, source), entry in sorted(entries.items()):
        if (what, source) not in found:
            problems.append(f"{what} ({source}) is in {LISTED.name}, and {source} does not use it or need not list it.")
        elif source in sources and entry.guard not in sources[source]:
            problems.append(f"{what} ({source}): the guard in {LISTED.name}, '{entry.guard}', is not in {source}.")
    return problems


def check(output: str, folders: Iterable[Path], lowest: int, highest: int, listed: Path = LISTED) -> int:
    """Compares what the checker printed with the list; returns how many uses there are.

    Raises:
        BuildError: They differ; the message has a line for each difference.
    """
    uses = read_uses(output)
    sources = {
        path.name: path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.kt"))
    }
    problems = differences(uses, read_listed(listed), sources, lowest, highest)
    if problems:
        raise BuildError("\n".join(["The app's use of Android's API is not as it should be:", *problems]))
    return len(uses)
