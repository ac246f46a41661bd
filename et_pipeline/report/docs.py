"""The figures that the documentation quotes: measured by a command, kept as JSON, and put into the pages from there.

`python -m et_pipeline.report.docs` measures, writes `docs/results/*.json`, and renders. `--render` only renders.
"""

from __future__ import annotations

import datetime
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from et_pipeline.manifest import Manifest
from et_pipeline.report.tables import closing, size

ROOT = Path(__file__).parents[2]
RESULTS = Path("docs/results")
PICTURE = Path("docs/closing-table.svg")
PAGES = ("README.md", "docs/benchmarks.md")
RECIPES = ["et-pipeline", "-m", "experiment=recipes", "format=json"]
DEMO = "tiny_assistant-8da4w-g32-xnnpack"


def measure(root: Path) -> None:
    """Run every recipe on the built-in model and keep the manifests."""
    command = [str(Path(sys.executable).parent / RECIPES[0]), *RECIPES[1:]]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, text=True)
    manifests = [document["manifest"] for document in json.loads(done.stdout)]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": manifests[0]["speed"][0]["where"],
        "command": " ".join(RECIPES),
        "manifests": manifests,
    }
    path = root / RESULTS / "recipes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def render(root: Path) -> dict[Path, str]:
    """What the pages and the picture have to be, by path, from what `docs/results/` holds."""
    result = json.loads((root / RESULTS / "recipes.json").read_text(encoding="utf-8"))
    manifests = [Manifest.model_validate_json(json.dumps(each)) for each in result["manifests"]]
    table = recipes_table(manifests) + (
        f"\n\nMeasured {result['date']} on {result['machine']} with `{result['command']}`.\n"
    )
    pages = {}
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8")
        pages[root / name] = re.sub(
            r"(<!-- recipes -->\n).*?(<!-- end -->)", lambda match: match[1] + table + match[2], text, flags=re.DOTALL
        )
    demo = next(each for each in manifests if each.what.name == DEMO)
    pages[root / PICTURE] = picture(demo)
    return pages


def recipes_table(manifests: list[Manifest]) -> str:
    """The recipes side by side, in Markdown."""
    rows: list[list[Any]] = [
        [
            "recipe",
            "size",
            "of fp16",
            "quantized: cosine",
            "top-1",
            "original: cosine",
            "top-1",
            "KL",
            "task accuracy",
            "prefill",
            "decode",
        ]
    ]
    for each in manifests:
        assert each.quality.agreement is not None
        ways = each.quality.agreement.quantized
        worst = [ways.one_piece, ways.chunked, ways.token_by_token]
        original = each.quality.agreement.original.token_by_token
        tasks = each.quality.tasks.values()
        deployed, before = (sum(getattr(t, k) for t in tasks) / len(tasks) for k in ("deployed", "original"))
        speed = each.speed[0]
        rows.append(
            [
                f"`{each.what.settings['recipe']['name']}`",
                size(each.memory.weights_bytes),
                f"{50 * each.memory.weights_bytes / each.what.parameters:.0f} %",
                f"{min(way.cosine for way in worst):.6f}",
                f"{100 * min(way.top1 for way in worst):.2f} %",
                f"{original.cosine:.5f}",
                f"{100 * original.top1:.2f} %",
                f"{original.kl:.4f}",
                f"{deployed:.1f} % ({deployed - before:+.1f})",
                f"{speed.prefill_tok_s.p50:,.0f}",
                f"{speed.decode_tok_s.p50:,.0f}",
            ]
        )
    head = "| " + " | ".join(rows[0]) + " |\n|---|" + "---:|" * (len(rows[0]) - 1) + "\n"
    return head + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows[1:])


def picture(manifest: Manifest) -> str:
    """The closing table of a run as SVG."""
    console = Console(record=True, width=118, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(closing(manifest, f"bundles/{manifest.what.name}"))
    return console.export_svg(title="make demo", unique_id="closing") + "\n"


def main() -> None:
    """Measure unless told only to render, then write the pages."""
    if "--render" not in sys.argv[1:]:
        measure(ROOT)
    for path, text in render(ROOT).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
