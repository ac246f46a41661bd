"""The tables of instructions per token on an emulated arm64 core, from what `make bench-arm` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from et_pipeline.report.tables import markdown

Row = Mapping[str, Any]


def tables(result: Mapping[str, Any]) -> str:
    """Two tables in Markdown: instructions by place, and of what kind they are where a chat begins."""
    programs: Mapping[str, Sequence[Row]] = result["programs"]
    return f"{_instructions(programs)}\n\n{_kinds(programs)}\n"


def _instructions(programs: Mapping[str, Sequence[Row]]) -> str:
    places = sorted({(row["what"], row["at"]) for rows in programs.values() for row in rows})
    table: list[list[Any]] = [["millions of instructions a token", *(f"{what} {at:,}" for what, at in places)]]
    for name, rows in programs.items():
        found = {(row["what"], row["at"]): row["instructions"] for row in rows}
        table.append([name, *(_millions(found.get(place)) for place in places)])
    return markdown(table)


def _kinds(programs: Mapping[str, Sequence[Row]]) -> str:
    table: list[list[Any]] = [["of these, decode 64", "dot products", "loads and stores", "SIMD"]]
    for name, rows in programs.items():
        for row in rows:
            if (row["what"], row["at"]) == ("decode", 64):
                shares = (row[kind] / row["instructions"] for kind in table[0][1:])
                table.append([name, *(f"{100 * share:.0f} %" for share in shares)])
    return markdown(table)


def _millions(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
