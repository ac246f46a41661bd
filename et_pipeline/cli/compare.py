"""Every recipe on one model: `python -m et_pipeline.cli.compare MODEL [overrides] [--out FOLDER]`.

Runs the pipeline for each recipe on XNNPACK, whatever the gates say, and writes `report.html` (one file that refers to
no other), its pictures as PNG, `compare.json`, which both are made from, and `bundles.html`, the page of
`et-pipeline report`. Stages' results are cached as always, so a second sweep runs only what changed.
`--adapt prune_width,qat` shows the model adapted like that beside them.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from et_pipeline.cli.paths import named
from et_pipeline.cli.streams import standard_streams
from et_pipeline.errors import UserError
from et_pipeline.host import machine
from et_pipeline.job.composed import composed
from et_pipeline.job.mistakes import guarded, resumed
from et_pipeline.report import progress
from et_pipeline.report.compare_page import write
from et_pipeline.report.comparison import Comparison, Outcome, best
from et_pipeline.settings import Model, Settings

if TYPE_CHECKING:
    import torch

    from et_pipeline.pipeline import Result

PLAIN = ("fp32", "8da8w", "int8_weight_only", "int4_weight_only")
METHODS = {
    "": {},
    "hqq": {"algorithm": "hqq"},
    "gptq": {"algorithm": "gptq"},
    "awq": {"transform": "awq"},
    "awq-gptq": {"transform": "awq", "algorithm": "gptq"},
    "smoothquant": {"transform": "smoothquant"},
    "rotation": {"transform": "rotation"},
    "rotation-gptq": {"transform": "rotation", "algorithm": "gptq"},
}
GROUPS = (32, 128, 0)
MIXED = (5.0, 5.5, 6.0)
STEPS = ("merge_lora", "prune_depth", "prune_width", "distill", "qat")
ADAPTED = ("8da8w", "8da4w-rotation-gptq-g32")  # how an adapted model is quantized
CHOSEN_HERE = ("model", "mode", "until", "format", "plot", "name", "recipe", "backend", "experiment", "adapt")
ALSO_CHOSEN = ("name", "scheme", "group_size", "algorithm", "transform", "mixed_bits")  # of the recipe
INSPECTED_TOKENS = 256


def recipes() -> dict[str, list[str]]:
    """The recipes of a sweep: by name, what chooses it."""
    found = {name: [f"recipe={name}"] for name in PLAIN}
    for group, (method, keys) in product(GROUPS, METHODS.items()):
        name = "-".join(filter(None, ("8da4w", method, f"g{group}")))
        found[name] = _recipe(name, {"group_size": group, **keys})
    for bits in MIXED:
        name = f"8da4w-mixed{bits}-g32"
        found[name] = _recipe(name, {"group_size": 32, "algorithm": "gptq", "mixed_bits": bits})
    return found


def adapted(model: str, chains: Sequence[str]) -> dict[str, list[str]]:
    """Adapted forms of a model, likewise.

    Args:
        model: its name.
        chains: steps of `adapt`, separated by commas.

    Raises:
        UserError: there is no such step.
    """
    found = {}
    for chain in chains:
        asked = {step.strip() for step in chain.split(",")}
        strangers = sorted(asked - set(STEPS))
        if strangers:
            raise UserError(f"--adapt {chain!r} has {strangers[0]!r}; steps are {', '.join(STEPS)}, with commas")
        steps = [step for step in STEPS if step in asked]  # in this order they are done
        for name in ADAPTED:
            if "qat" not in steps or name != "8da8w":  # it trains 4 bits
                row = f"{'-'.join(steps)}-{name}"
                found[row] = [f"adapt=[{','.join(steps)}]", f"name={model}-{row}", *recipes()[name]]
    return found


def _recipe(name: str, keys: Mapping[str, object]) -> list[str]:
    return ["recipe=8da4w", f"recipe.name={name}", *(f"recipe.{key}={value}" for key, value in keys.items())]


def compose_all(
    model: str, overrides: Sequence[str], out: Path, chosen: Mapping[str, Sequence[str]]
) -> dict[str, Settings]:
    """The settings of each recipe.

    Args:
        model: a name in `conf/model/`.
        overrides: Hydra's, for all; calibration's go to those that have it.
        out: bundles go into a folder of it, unless an override says another.
        chosen: of `recipes`.

    Raises:
        UserError: an override is of what is compared, or makes no sense.
    """
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key in CHOSEN_HERE or key.removeprefix("recipe.") in ALSO_CHOSEN:
            instead = f"say --adapt {override[6:].strip('[]')}" if key == "adapt" else "leave it out"
            raise UserError(f"{override} is what make compare chooses itself; {instead}")
    found = {}
    for name, keys in chosen.items():
        calibrates = "recipe=8da4w" in keys
        shared = [each for each in overrides if calibrates or not each.startswith("recipe.calibration")]
        found[name] = composed([f"model={model}", f"paths.bundles={(out / 'bundles').as_posix()}", *keys, *shared])
    first = next(iter(found.values()))
    if first.model.task == "embedding":
        raise UserError(f"model={model} embeds texts, and make compare is for models that answer")
    if first.verify.text is not None and any(each.adapt.prunes or each.adapt.distill for each in found.values()):
        raise UserError(
            f"verify.text={first.verify.text} does not go with --adapt: how far an adapted model is from the original "
            "is measured on the original's own answers; leave verify.text out"
        )
    return found


def sweep(every: Mapping[str, Settings], out: Path, say: Callable[[str], None], yields: bool = False) -> list[Outcome]:
    """Run each recipe and look into what it made; the first one's mistakes are the user's, others' are shown.

    Args:
        every: settings by recipe, the original weights' first.
        out: logs go into a folder of it.
        say: takes a line of progress.
        yields: as of `pipeline.run`.

    Raises:
        UserError: a text is missing, or the first recipe cannot be run at all.
    """
    from et_pipeline.forecast import check_groups
    from et_pipeline.pipeline import check, given_texts, run
    from et_pipeline.survey import read_adapted

    for settings in every.values():
        given_texts(settings)
    local: Model | None = None  # the checkpoint that the first one found
    inspect: Callable[[Settings, Result], Outcome] | None = None
    outcomes = []
    for number, (name, settings) in enumerate(every.items(), 1):
        say(f"{number} of {len(every)}: {name}")
        began = time.monotonic()
        face = progress.face(quiet=False)
        logs = out / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        try:
            check(settings)
            if local is not None:  # sooner than the quantizer would say it
                check_groups(read_adapted(settings.model_copy(update={"model": local})), settings.recipe)
            with resumed():
                result = run([settings], face, logs, yields)
        except UserError as error:
            if local is None:
                raise
            outcomes.append(Outcome(name=name, refused=str(error)))
            say(str(error))
            continue
        finally:
            face.close()
        if inspect is None:
            local = result.programs[0].settings.model.model_copy(update={"source": str(result.checkpoint)})
            inspect = _inspector(settings, result)
        outcome = inspect(settings, result)
        outcomes.append(outcome.model_copy(update={"name": name, "seconds": round(time.monotonic() - began, 1)}))
    return outcomes


def _inspector(first: Settings, result: Result) -> Callable[[Settings, Result], Outcome]:
    """What looks into each recipe's result; the part of what was quantized is computed once of each checkpoint."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # it complains about torchao
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.checkpoints.folder import Folder
    from et_pipeline.checkpoints.reader import stream_model
    from et_pipeline.evaluation import inspection, perplexity, text_source
    from et_pipeline.quantization.torchao_config import load_quantized

    context = result.programs[0].settings.model.max_context
    assert result.checkpoint is not None
    facts = Facts.read(result.programs[0].entries["acquire"].folder)
    source = first.verify.text or text_source.BUILTIN
    count = min(INSPECTED_TOKENS, context, first.verify.text_tokens)
    path = text_source.resolve(perplexity.KEY, source)
    tokens = perplexity.text_ids(source, path, count, facts, Folder(result.checkpoint).tokenizer)

    @cache
    def original(checkpoint: Path) -> list[torch.Tensor]:
        return inspection.streams(stream_model(checkpoint), tokens, context)

    def inspect(settings: Settings, result: Result) -> Outcome:
        made, manifest, q = result.programs[0], result.manifest, settings.recipe.quantization
        checkpoint = result.checkpoint
        assert manifest is not None
        assert checkpoint is not None
        model = load_quantized(checkpoint, made.entries["quantize"].folder, q)
        parts = inspection.part_bytes(model, q)
        whole = sum(manifest.files[file].size for file in (manifest.main.file, *manifest.main.weights))
        return Outcome(
            name=settings.recipe.name,
            manifest=manifest,
            parts={**parts, "program": whole - sum(parts.values())},
            weight_errors=inspection.weight_errors(checkpoint, model, q),
            layer_errors=inspection.layer_errors(inspection.streams(model, tokens, context), original(checkpoint), q),
            reused=len(made.reused) == len(made.entries),
        )

    return inspect


def compare(model: str, overrides: Sequence[str], out: Path, chosen: Mapping[str, Sequence[str]]) -> None:
    """Sweep over recipes and write the report.

    Raises:
        UserError: as `compose_all` and `sweep`; nothing to draw with.
    """
    console = Console(stderr=True)
    began = time.monotonic()
    every = compose_all(model, overrides, out, chosen)
    yields = not any(each.startswith("model.max_context=") for each in overrides)
    outcomes = sweep(every, out, lambda line: console.print(line, highlight=False, soft_wrap=True), yields)
    comparison = Comparison(
        model=next(iter(every.values())).model.name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine(),
        overrides=tuple(overrides),
        outcomes=tuple(outcomes),
    )
    report = write(comparison, out)
    reused = sum(each.reused for each in outcomes)
    console.print(
        f"{len(comparison.measured)} recipes in {time.monotonic() - began:.0f} s, {reused} of them from the cache; "
        f"the Pareto front: {', '.join(best(comparison))}\n{report}\n{report.with_name('bundles.html')}",
        highlight=False,
        soft_wrap=True,
    )


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.cli.compare",
        description="Every recipe on one model, and a report.",
        epilog="Example: python -m et_pipeline.cli.compare tiny_assistant --adapt prune_width,qat",
    )
    parser.add_argument("model", help="a name in conf/model/")
    parser.add_argument("overrides", nargs="*", help="Hydra's overrides, such as verify.text=notes.txt")
    parser.add_argument(
        "--adapt", action="append", default=[], metavar="STEPS", help="also adapted: steps with commas; may be repeated"
    )
    parser.add_argument("--out", type=named("--out"), help="folder of the report (default: build/compare/MODEL)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""

    def job() -> None:
        given = command_line().parse_intermixed_args(arguments)
        out = given.out or Path("build/compare") / given.model
        compare(given.model, given.overrides, out, recipes() | adapted(given.model, given.adapt))

    with standard_streams():
        sys.exit(guarded(job))


if __name__ == "__main__":
    main()
