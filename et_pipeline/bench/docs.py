"""The figures that the documentation quotes: measured by a command, kept as JSON, and put into the pages from there.

`python -m et_pipeline.bench.docs recipes` (or `full_size`, an hour for three models of up to 7B, `forecast`, an hour
for thirteen exports, or `qnn`, an hour on Qualcomm's simulator) runs that experiment, writes
`docs/results/<experiment>.json`, and renders; without a name it only renders. A folder of `make compare` instead of a
name keeps that comparison's figures.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from et_pipeline.bench import (
    answers,
    arm_tables,
    family_table,
    forecast,
    host_picture,
    host_tables,
    newcomer,
    quality_tables,
)
from et_pipeline.errors import EXIT_GATE
from et_pipeline.host import machine
from et_pipeline.manifest import Manifest
from et_pipeline.report.comparison import Comparison
from et_pipeline.report.tables import closing, markdown
from et_pipeline.report.words import size

ROOT = Path(__file__).parents[2]
RESULTS = Path("docs/results")
PICTURE = Path("docs/pages/closing-table.svg")
HOST_PICTURE = Path("docs/pages/host.svg")
PAGES = ("README.md", *(f"docs/pages/{name}.md" for name in ("benchmarks", "howto/recipes", "reference/families")))
EXPERIMENTS = ("recipes", "full_size", "forecast", "qnn")
_COSINE = "min_cosine_quantized"
DEMO = "tiny_assistant-8da4w-g32-xnnpack"


def measure(root: Path, experiment: str) -> None:
    """Run an experiment and keep its manifests."""
    command = ["et-pipeline", "-m", f"experiment={experiment}", "format=json"]
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run([program, *command[1:]], cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, EXIT_GATE):  # a failed gate is a result, and is shown
        sys.exit(done.returncode)
    manifests = [document["manifest"] for document in json.loads(done.stdout)]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": " ".join(command),
        "manifests": manifests,
    }
    _keep(root, experiment, result)


def measure_forecast(root: Path, pairs: Sequence[tuple[str, str]] = forecast.PAIRS) -> None:
    """Export models with recipes; what was kept of others stays."""
    kept = root / RESULTS / "forecast.json"
    exports = json.loads(kept.read_text(encoding="utf-8"))["exports"] if kept.is_file() else []
    forecast.measure(pairs, exports, lambda exports: _keep(root, "forecast", {"exports": exports}))


def keep_comparison(root: Path, folder: Path) -> None:
    """Keep the figures of a sweep over recipes; those of other models stay."""
    comparison = Comparison.model_validate_json((folder / "compare.json").read_text(encoding="utf-8"))
    kept = root / RESULTS / "compare.json"
    models = json.loads(kept.read_text(encoding="utf-8"))["models"] if kept.is_file() else {}
    _keep(root, "compare", {"models": {**models, **quality_tables.comparison_figures(comparison)}})


def _keep(root: Path, experiment: str, result: dict[str, Any]) -> None:
    path = root / RESULTS / f"{experiment}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def render(root: Path) -> dict[Path, str]:
    """What the pages and the pictures have to be, by path, from what `docs/results/` holds."""

    def kept(name: str) -> Any:
        return json.loads((root / RESULTS / f"{name}.json").read_text(encoding="utf-8"))

    def measured(experiment: str, make_table: Callable[[list[Manifest]], str]) -> str:
        result = kept(experiment)
        how = f"Measured {result['date']} on {result['machine']} with `{result['command']}`."
        return f"{make_table(manifests(experiment))}\n\n{how}\n"

    def manifests(experiment: str) -> list[Manifest]:
        return [Manifest.model_validate_json(json.dumps(each)) for each in kept(experiment)["manifests"]]

    tables = {
        "recipes": measured("recipes", recipes_table),
        "recipes in short": measured("recipes", short_table),
        "full_size": measured("full_size", full_size_table),
        "qnn": measured("qnn", qnn_table),
        "forecast": forecast_table(root),
        "export_llm": export_llm_text(root),
        "host": host_tables.tables(kept("host")),
        "host_contexts": host_tables.contexts(kept("host_contexts")),
        "host_avx2": host_tables.contexts(kept("host_avx2")),
        "states": host_tables.side_by_side(kept("states")),
        "quality": quality_tables.tables(kept("quality")["models"]),
        "answers": answers.table(kept("answers")),
        "arm": arm_tables.tables(kept("arm")),
        "families": family_table.table(kept("families")),
        "newcomer": newcomer.table(kept("newcomer")),
        "compare": quality_tables.compared(kept("compare")["models"]),
    }
    pages = {}
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8")
        for place, table in tables.items():
            marked = re.compile(rf"(<!-- {place} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
            text = marked.sub(partial(_between, table), text)
        pages[root / name] = text
    pages[root / PICTURE] = picture(next(each for each in manifests("recipes") if each.what.name == DEMO))
    pages[root / HOST_PICTURE] = host_picture.host_svg(kept("host"))
    return pages


def export_llm_text(root: Path) -> str:
    """What ExecuTorch's own exporter took, in sentences."""
    result = json.loads((root / RESULTS / "export_llm.json").read_text(encoding="utf-8"))
    lines = []
    for run in result["runs"]:
        ending = (
            f"wrote {size(run['pte_bytes'])}"
            if run["finished"]
            else f"was stopped at the limit of {result['limit_bytes'] / 1e9:.1f} GB"
            if run["killed_at_limit"]
            else "ended with an error"
        )
        lines.append(
            f"- {run['layers']} layers, {run['weights']:,} weights: {ending} after {run['wall_s']:.0f} s "
            f"({run['cpu_s']:.0f} CPU-s), peak {run['peak_rss_bytes'] / 1e9:.1f} GB; its last words: "
            f"`{run['last_words'][-1].split('- ')[-1]}`"
        )
    return "\n".join(lines) + f"\n\nMeasured {result['date']} on {result['machine']}.\n"


def _between(table: str, match: re.Match[str]) -> str:
    return match[1] + table + match[2]


def recipes_table(manifests: list[Manifest]) -> str:
    """The recipes side by side, in Markdown."""
    return markdown(_recipe_rows(manifests))


def short_table(manifests: list[Manifest]) -> str:
    """The columns of the same that a newcomer asks for."""
    return markdown([[row[column] for column in (0, 1, 2, 7, 8, 9, 10)] for row in _recipe_rows(manifests)])


def _recipe_rows(manifests: list[Manifest]) -> list[list[Any]]:
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
                _accuracy(each),
                f"{speed.prefill_tok_s.p50:,.0f}",
                f"{speed.decode_tok_s.p50:,.0f}",
            ]
        )
    return rows


def qnn_table(manifests: list[Manifest]) -> str:
    """Each chip and recipe on Qualcomm's simulator, in Markdown."""
    rows: list[list[Any]] = [
        [
            "chip",
            "recipe",
            "size",
            "delegates",
            "outside",
            "quantized: lowest cosine",
            "top-1",
            "original: cosine",
            "top-1",
            "KL",
            "greedy answers equal",
            "tokens before a difference",
            "task accuracy",
            "CPU seconds: quantize",
            "lower",
            "peak memory",
        ]
    ]
    for each in manifests:
        program, agreement, greedy = each.main, each.quality.agreement, each.quality.greedy
        assert agreement is not None
        assert greedy is not None
        quantized, original = agreement.quantized.token_by_token, agreement.original.token_by_token
        costs = [each.stages[stage] for stage in ("quantize", "lower")]
        rows.append(
            [
                f"{program.soc[0]} ({program.hexagon})",
                f"`{program.recipe}`",
                size(each.memory.weights_bytes),
                program.delegates,
                sum(program.fallback_operators.values()),
                f"{quantized.min_cosine:.7f}",
                f"{100 * quantized.top1:.1f} %",
                f"{original.cosine:.5f}",
                f"{100 * original.top1:.1f} %",
                f"{original.kl:.4f}",
                f"{greedy.equal} of {greedy.prompts}",
                f"{100 * greedy.agreement:.1f} % of {greedy.tokens}",
                _accuracy(each),
                *(f"{cost.cpu_s:.0f}" for cost in costs),
                size(max(cost.peak_rss_bytes for cost in costs)),
            ]
        )
    return markdown(rows)


def _accuracy(manifest: Manifest) -> str:
    """Mean over the tasks, and its change from the original in points."""
    tasks = manifest.quality.tasks.values()
    deployed, before = (sum(getattr(t, k) for t in tasks) / len(tasks) for k in ("deployed", "original"))
    return f"{deployed:.1f} % ({deployed - before:+.1f})"


def full_size_table(manifests: list[Manifest]) -> str:
    """Each model, and under it what each stage took, in Markdown."""
    stages = ("quantize", "export", "lower", "verify", "measure")
    rows: list[list[Any]] = [
        [
            "model",
            "parameters",
            ".pte",
            "bits per weight",
            "quantized: cosine",
            "eager with itself: cosine",
            "quantized: top-1",
            "TTFT, 64 tokens",
            "prefill",
            "decode",
            *stages,
        ]
    ]
    for each in manifests:
        assert each.quality.agreement is not None
        ways = each.quality.agreement.quantized
        speed = each.speed[0]
        costs = []
        for stage in stages:
            cost = each.stages[stage]
            memory = f", {cost.peak_rss_bytes / 1e9:.1f} GB" if cost.peak_rss_bytes else ""
            costs.append(f"{cost.wall_s:.0f} s ({cost.cpu_s:.0f} CPU-s){memory}")
        rows.append(
            [
                str(each.what.settings["model"]["name"]),
                f"{each.what.parameters:,}",
                size(each.memory.weights_bytes),
                f"{8 * each.memory.weights_bytes / each.what.parameters:.2f}",
                f"{min(way.cosine for way in (ways.one_piece, ways.chunked, ways.token_by_token)):.6f}",
                _rounding(each),
                f"{100 * min(way.top1 for way in (ways.one_piece, ways.chunked, ways.token_by_token)):.1f} %",
                f"{speed.ttft_ms.p50 / 1000:.1f} s",
                f"{speed.prefill_tok_s.p50:.1f}",
                f"{speed.decode_tok_s.p50:.1f}",
                *costs,
            ]
        )
    return markdown([list(row) for row in zip(*rows, strict=True)])


def forecast_table(root: Path) -> str:
    """What `mode=plan` says beside what happened, in Markdown.

    Of the experiment `full_size` what was not measured here since.
    """
    results = {name: json.loads((root / RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in EXPERIMENTS}
    exports = results["forecast"]["exports"]
    pairs = {(each["model"], each["recipe"]) for each in exports}
    full_size = forecast.full_size_exports(results["full_size"]["manifests"])
    exports = [*exports, *(each for each in full_size if (each["model"], each["recipe"]) not in pairs)]
    rows: list[list[Any]] = [
        [
            "model",
            "recipe",
            ".pte",
            "forecast",
            "off by",
            "peak memory",
            "forecast",
            "off by",
            "CPU seconds",
            "forecast",
        ]
    ]
    for each in forecast.compare(exports):
        rows.append(
            [
                each.model,
                f"`{each.recipe}`",
                size(each.pte[1]),
                size(each.pte[0]),
                f"{100 * (each.pte[0] / each.pte[1] - 1):+.1f} %",
                size(each.peak[1]),
                size(each.peak[0]),
                f"{100 * (each.peak[0] / each.peak[1] - 1):+.0f} %",
                f"{each.cpu[1]:.0f}",
                f"{each.cpu[0]:.0f}",
            ]
        )
    machines = sorted({each["machine"] for each in results["forecast"]["exports"]})
    dates = sorted({each["date"] for each in results["forecast"]["exports"]})
    return markdown(rows) + (
        f"\n\nMeasured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {' and '.join(machines)} with "
        "`python -m et_pipeline.bench.docs forecast`; models of the table above as it says.\n"
    )


def _rounding(manifest: Manifest) -> str:
    """How well eager agrees with itself, from the threshold that the gate made of it: half of that distance."""
    threshold = min(check.threshold for check in manifest.quality.gate.checks if check.name.startswith("cosine"))
    return f"{1 - (1 - threshold) / 2:.6f}" if threshold < manifest.quality.gate.thresholds[_COSINE] else "not measured"


def picture(manifest: Manifest) -> str:
    """The closing table of a run as SVG."""
    console = Console(record=True, width=118, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(closing(manifest, f"bundles/{manifest.what.name}"))
    return console.export_svg(title="make demo", unique_id="closing") + "\n"


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.docs",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.docs recipes",
    )
    asked = f"what to measure first, of {', '.join(EXPERIMENTS)}; or a folder of make compare, which is kept"
    parser.add_argument("experiments", nargs="*", help=asked)
    return parser


def main() -> None:
    """Measure what is asked for, then write the pages."""
    for experiment in command_line().parse_args().experiments:
        if (Path(experiment) / "compare.json").is_file():
            keep_comparison(ROOT, Path(experiment))
            continue
        if experiment not in EXPERIMENTS:
            sys.exit(f"{experiment} is not an experiment with a page; choose from {', '.join(EXPERIMENTS)}")
        if experiment == "forecast":
            measure_forecast(ROOT)
        else:
            measure(ROOT, experiment)
    for path, text in render(ROOT).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
