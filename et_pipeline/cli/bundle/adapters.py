"""`et-bundle adapters`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import FolderArgument, JsonOption, PathArgument, example
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.cli.paths import named
from et_pipeline.errors import GateError
from et_pipeline.host import expanded
from et_pipeline.manifest import Adapter, AdapterQuality
from et_pipeline.report.words import size

app = typer.Typer(
    help="The adapters of a bundle: what makes other models of its program while it is loaded.",
    epilog=example("adapters list BUNDLE"),
    no_args_is_help=True,
)
PeftArgument = Annotated[
    Path,
    typer.Argument(parser=named("ADAPTER"), metavar="ADAPTER", help="The folder that peft saved, or a GGUF file."),
]
BaseOption = Annotated[
    Path | None,
    typer.Option(
        parser=named("--base"),
        metavar="FOLDER",
        help="The original that it is for, unless the bundle or the adapter says.",
        show_default=False,
    ),
]


@app.command(epilog=example("adapters add BUNDLE path/to/adapter --name formal"))
def add(
    path: FolderArgument,
    adapter: PeftArgument,
    name: Annotated[str | None, typer.Option(help="What to call it; by default as its folder or file.")] = None,
    about: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What it is for, which the app shows. Default: what was said before.",
            show_default=False,
        ),
    ] = None,
    base: BaseOption = None,
) -> None:
    """Put a LoRA adapter of peft into a bundle that was made with model.adapter_rank.

    The program with it is compared with what peft computes on the original. Exit code 3: it is in, but its quality gate
    failed.
    """
    from et_pipeline.bundle.adapters import add as put

    called = name or re.sub(r"\.gguf$", "", adapter.absolute().name, flags=re.IGNORECASE)
    added = put(expanded(path), expanded(adapter), called, base, about)
    _show(added.name, added.quality)


@app.command("list", epilog=example("adapters list BUNDLE"))
def list_(path: PathArgument, as_json: JsonOption = False) -> None:
    """Say which adapters a bundle has."""
    with bundles.open_bundle(path) as bundle:
        manifest = bundle.manifest
    if as_json:
        print_json([adapter.model_dump(mode="json") for adapter in manifest.adapters])
        return

    def row(adapter: Adapter) -> tuple[str, ...]:
        near, verdict = adapter.quality.agreement, "passed" if adapter.quality.gate.passed else "FAILED"
        file = manifest.files[adapter.file]
        figures = str(adapter.rank), size(file.size), f"{near.kl:.4f}", f"{near.top1:.1%}", verdict
        return adapter.name, *figures, adapter.about or ""

    columns = ("name", "rank", "size", "KL to peft", "top-1", "gate", "for")
    print_table(f"{manifest.what.name}", columns, [row(adapter) for adapter in manifest.adapters])


@app.command(epilog=example("adapters verify BUNDLE formal path/to/adapter"))
def verify(
    path: PathArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the bundle calls it.")],
    adapter: PeftArgument,
    base: BaseOption = None,
) -> None:
    """Compare the program with an adapter with what peft computes on the original, once more."""
    from et_pipeline.bundle.adapters import verify as again

    with bundles.open_bundle(path) as bundle:
        found = again(bundle.folder, bundle.manifest, name, expanded(adapter), base)
    _show(name, found)


def _show(name: str, found: AdapterQuality) -> None:
    near, greedy = found.agreement, found.greedy
    rows = [
        ("KL to peft, nats per token", f"{near.kl:.4f}"),
        ("same likeliest token", f"{near.top1:.1%} of {near.positions}"),
        ("same answers", f"{greedy.equal} of {greedy.prompts}"),
        ("quality gate", "passed" if found.gate.passed else "FAILED"),
    ]
    print_table(name, ("", ""), rows)
    if not found.gate.passed:
        failed = next(check for check in found.gate.checks if not check.passed)
        raise GateError(f"adapter {name}: {failed.name} is {failed.value:.4g}, the threshold {failed.threshold:.4g}")
