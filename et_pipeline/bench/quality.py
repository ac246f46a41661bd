"""What quantization costs, beside llama.cpp: ours through the .pte, on held-out text.

`python -m et_pipeline.bench.quality FOLDER` makes every program and file from the same weights, and compares each with
transformers in fp32 on the same tokens. FOLDER holds the texts of `tiny_writer.text` and a GGUF file of SmolLM2. Before
any type of llama.cpp counts, its file in fp32 has to give transformers' logits.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.bench import peer_files
from et_pipeline.bench.host_tables import LLAMA_CPP, OURS
from et_pipeline.bench.quality_tables import tables
from et_pipeline.bench.subjects import MODELS, Model
from et_pipeline.checkpoints import llama_cpp
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.evaluation import on_text
from et_pipeline.evaluation.agreement import eager_logits
from et_pipeline.evaluation.perplexity import KEY, text_ids, windows
from et_pipeline.evaluation.text_source import resolve
from et_pipeline.evaluation.verified import OnText, Verified
from et_pipeline.host import machine
from et_pipeline.job.composed import composed
from et_pipeline.pipeline import run
from et_pipeline.report import progress
from et_pipeline.runtime.speed import Speed
from et_pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

RECIPES = {
    "8da4w-g32": ("recipe=8da4w",),
    "8da4w-hqq-g32": ("recipe=8da4w", "recipe.algorithm=hqq"),
    "8da4w-gptq-g32": ("recipe=8da4w_gptq", "recipe.group_size=32"),
    "8da4w-awq-g32": ("recipe=8da4w_awq",),
    "8da4w-rotation-gptq-g32": ("recipe=8da4w_rotation_gptq", "recipe.group_size=32"),
    "8da4w-rotation-gptq-g0": ("recipe=8da4w_rotation_gptq",),
    "8da4w-mixed5.5-g32": ("recipe=8da4w_mixed",),
    "8da4w-rotation-mixed5.5-g32": ("recipe=8da4w_rotation_mixed",),
    "8da4w-rotation-mixed8.0-g32": ("recipe=8da4w_rotation_mixed", "recipe.mixed_bits=8.0"),
    "8da8w": ("recipe=8da8w",),
    "8da8w-rotation": ("recipe=8da8w_rotation",),
    "int4_weight_only": ("recipe=int4_weight_only",),
    "int8_weight_only": ("recipe=int8_weight_only",),
}
UNCALIBRATED = ("8da8w", "8da8w-rotation", "int8_weight_only")  # have no calibration that could be given another text
TYPES = {"Q4_0": "MOSTLY_Q4_0", "Q4_K_M": "MOSTLY_Q4_K_M", "Q8_0": "MOSTLY_Q8_0"}
TOKENS, WINDOW, STRIDE = 8192, 512, 256
FAITHFUL = 1e-5  # nats between transformers and llama.cpp, both in fp32
SAME = 1e-5  # relative difference of the original's perplexity as the pipeline and as this module computes it
_LIBRARIES = ("executorch", "torch", "torchao", "transformers", "cyllama")


class Scored(NamedTuple):
    """A row of the table, and the comparison that it is of."""

    row: dict[str, Any]
    text: OnText


def settings_of(model: Model, recipe: str) -> Settings:
    """The pipeline's settings of one of our programs."""
    words = [*model.words, *RECIPES[recipe], "task=chat", "until=measure", "verify.items_per_task=0"]
    words += [f"verify.text={model.text}", f"verify.text_tokens={TOKENS}", f"verify.window={WINDOW}"]
    words += [f"verify.stride={STRIDE}", "verify.sequences=4"]  # the text is what counts
    if recipe not in UNCALIBRATED:
        words += [f"recipe.calibration.source={model.calibration}"]
    return composed(words)


def _ours(model: Model, recipes: Sequence[str], logs: Path) -> Iterator[Scored]:
    """Our recipes, through the .pte."""
    for name in recipes:
        face = progress.face(quiet=False)
        try:
            (made,) = run([settings_of(model, name)], face, logs).programs
        finally:
            face.close()
        found = Verified.model_validate(made.entries["verify"].figures).text
        assert found is not None
        assert found.deployed is not None
        speed = Speed.model_validate(made.entries["measure"].figures)
        row = {
            "name": f"{OURS} `{name}`",
            "file_bytes": (made.entries["lower"].folder / "model.pte").stat().st_size,
            **found.deployed.model_dump(),
            "prefill": speed.prefill_tok_s.p50,
            "decode": speed.decode_tok_s.p50,
        }
        yield Scored(row, found)


def _theirs(model: Model, kinds: Sequence[str]) -> Iterator[Scored]:
    """llama.cpp's file in fp32, and its types made of that.

    Raises:
        UserError: llama.cpp computes another model than transformers, so its types say nothing of quantization.
    """
    import torch
    from gguf import LlamaFileType
    from transformers import AutoModelForCausalLM

    checkpoint = Folder(model.checkpoint)
    facts = read_facts(checkpoint)
    ids = text_ids(model.text, resolve(KEY, model.text), TOKENS, facts, checkpoint.tokenizer)
    spans = windows(len(ids), WINDOW, STRIDE)
    original = AutoModelForCausalLM.from_pretrained(model.checkpoint, dtype=torch.float32)

    @cache
    def before(sequences: tuple[tuple[int, ...], ...]) -> list[torch.Tensor]:
        return eager_logits(original, WINDOW, sequences)

    def scored(name: str, path: Path) -> Scored:
        found = on_text.score(
            ids,
            spans,
            lambda sequences: before(tuple(map(tuple, sequences))),
            _through_llama_cpp(path),
            None,
            facts.vocab_size,
            lambda steps: None,
        )
        about = {"name": f"{LLAMA_CPP} {name}", "file_bytes": path.stat().st_size, "types": tensor_types(path)}
        return Scored(about | found.quantized.model_dump(), found)

    with tempfile.TemporaryDirectory() as made:
        whole = Path(made) / "whole.gguf"
        peer_files.write_gguf(model.checkpoint, whole, exact=True)
        exact = scored("F32", whole)
        if exact.text.quantized.kl > FAITHFUL:
            raise UserError(
                f"in fp32 llama.cpp is {exact.text.quantized.kl:.2g} nats from transformers, more than {FAITHFUL}: "
                "the file is not the same model, so its types cannot be compared"
            )
        yield exact
        for kind in kinds:
            path = whole.with_name(f"{kind}.gguf")
            llama_cpp.quantize(whole, path, LlamaFileType[TYPES[kind]])
            yield scored(kind, path)


def _through_llama_cpp(path: Path) -> Callable[[Sequence[list[int]]], list[torch.Tensor]]:
    return lambda sequences: llama_cpp.logits(path, WINDOW, sequences)


def tensor_types(path: Path) -> dict[str, float]:
    """By type: the share of a GGUF file's weights that have it, the largest first."""
    from gguf import GGUFReader

    counts: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return {name: count / counts.total() for name, count in counts.most_common()}


def measure(model: Model, only: Sequence[str], logs: Path) -> dict[str, Any]:
    """Make and measure rows of a model.

    Args:
        model: what all are made from.
        only: names of recipes and of llama.cpp's types.
        logs: folder for what the stages print.

    Raises:
        UserError: as `_theirs`, or llama.cpp and our programs read different tokens.
    """
    parameters, kinds = read_facts(Folder(model.checkpoint)).parameters, [kind for kind in TYPES if kind in only]
    found = list(_theirs(model, kinds)) if kinds else []
    found += _ours(model, [name for name in RECIPES if name in only], logs)
    perplexities = [each.text.original for each in found]
    if max(perplexities) / min(perplexities) - 1 > SAME:
        raise UserError(f"the original's perplexity is {perplexities}: they read different tokens")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": "make bench-quality",
        "versions": {name: metadata.version(name) for name in _LIBRARIES if util.find_spec(name)},
        "parameters": parameters,
        "tokens": found[0].text.tokens,
        "original": found[0].text.original,
        "rows": [each.row | {"bits_per_weight": 8 * each.row["file_bytes"] / parameters} for each in found],
    }


def merged(kept: Mapping[str, Any], name: str, found: dict[str, Any]) -> dict[str, Any]:
    """All models' figures, with new ones of one: they join what was measured before of the same on the same text."""
    before = kept.get(name, found)
    same = all(before[key] == found[key] for key in ("machine", "versions", "tokens"))
    same = same and abs(before["original"] / found["original"] - 1) <= SAME
    rows = {row["name"]: row for row in [*(before["rows"] if same else []), *found["rows"]]}
    return {**kept, name: {**found, "rows": sorted(rows.values(), key=lambda row: row["file_bytes"])}}


def _chosen(option: str, given: str, known: Sequence[str]) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--{option}={name} is none of {', '.join(known)}")
    return names


def command_line() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(
        prog="python -m et_pipeline.bench.quality",
        description=__doc__,
        epilog="Example: python -m et_pipeline.bench.quality build/quality --only 8da4w,Q4_0",
    )
    parser.add_argument("folder", type=Path, help="what `make bench-quality` has made and downloaded")
    parser.add_argument("--only", default=",".join((*RECIPES, *TYPES)), help="our recipes and llama.cpp's types")
    parser.add_argument("--model", default=",".join(MODELS), help="the others are left out")
    parser.add_argument("--json", type=Path, default=None, help="put the figures into this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = command_line().parse_args(arguments)
    kept: dict[str, Any] = {}
    if options.json and options.json.is_file():
        kept = json.loads(options.json.read_text(encoding="utf-8"))["models"]
    logs = Path(tempfile.mkdtemp(prefix="quality_bench"))
    try:
        only = _chosen("only", options.only, (*RECIPES, *TYPES))
        for name in _chosen("model", options.model, list(MODELS)):
            kept = merged(kept, name, measure(MODELS[name](options.folder), only, logs))
            if options.json:
                options.json.write_text(json.dumps({"models": kept}, indent=1) + "\n", encoding="utf-8")
    except (UserError, llama_cpp.Unavailable) as error:
        sys.stderr.write(f"bench.quality: {error}\n")
        sys.exit(EXIT_USER)
    sys.stdout.write(tables(kept))


if __name__ == "__main__":
    main()
