"""The host benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from et_pipeline.bench import host_tables as host
from et_pipeline.report.plots import NO_USE, ROW, WEIGHTS, WIDTH, words


def host_svg(result: Mapping[str, Any]) -> str:
    """Draw the medians of the host benchmark with the most threads: a block per shape, a bar per contender."""
    figures = (("Prefill, 128 tokens", host.PREFILL_128), ("Prefill, 512", host.PREFILL_512), ("Decode", host.DECODE))
    left, panel = 190, (WIDTH - 190) / len(figures)
    parts: list[str] = []
    y = 54
    for shape in result["shapes"]:
        count = max(shape["read_s"], key=int)
        title = f"{shape['model']}, {host.thread_words(count)}: tokens per second"
        parts.append(words(16, y, title, 'font-size="15" font-weight="600"'))
        for column, (name, item) in enumerate(figures):
            x = left + column * panel
            parts.append(words(x, y + 24, name, 'font-weight="600"'))
            rates = [host.rates(each, count, item)[0] for each in shape["contenders"]]
            for row, (each, rate) in enumerate(zip(shape["contenders"], rates, strict=True)):
                at = y + 34 + ROW * row
                if column == 0:
                    parts.append(words(left - 12, at + 17, each["name"], 'text-anchor="end"'))
                wide = (panel - 80) * rate / max(rates)
                colour = WEIGHTS if each["kind"] == host.OURS else NO_USE
                parts.append(f'<rect x="{x:.1f}" y="{at + 2}" width="{wide:.1f}" height="{ROW - 12}" fill="{colour}"/>')
                parts.append(words(x + wide + 6, at + 17, host.figure(rate), ""))
        y += 34 + ROW * len(shape["contenders"]) + 44
    height = y - 30
    return (
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
                f'height="{height}" font-family="system-ui, sans-serif" font-size="13" fill="#222">',
                "<title>Speed on the host</title>",
                f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
                words(16, 26, f"Medians on {result['machine']}, {result['date']}", 'fill="#666"'),
                *parts,
                "</svg>",
            ]
        )
        + "\n"
    )
