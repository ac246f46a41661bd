"""What quantization costs, beside llama.cpp: the built-in models on held-out text, ours through the .pte.

`python -m et_pipeline.bench.quality FOLDER` makes every program and file from the same checkpoints, and compares
each with transformers in fp32 on the same tokens. FOLDER holds the texts of `tiny_writer.text`. Before any
type of llama.cpp counts, its file in fp32 has to give transformers' logits.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline import tiny_assistant
from et_pipeline.bench import contenders, engines, peer_files
from et_pipeline.bench.host_tables import LLAMA_CPP, OURS
from et_pipeline.bench.quality_tables import tables
from et_pipeline.checkpoints.facts import read_facts
from et_pipeline.checkpoints.tokens import read_tokenizer
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.evaluation.agreement import merge
from et_pipeline.evaluation.perplexity import KEY, agreement, loss, perplexity, text_ids, windows
from et_pipeline.evaluation.text_source import BUILTIN, resolve
from et_pipeline.evaluation.verified import Verified
from et_pipeline.job.composed import composed
from et_pipeline.pipeline import run
from et_pipeline.report import progress
from et_pipeline.runtime.program import quiet
from et_pipeline.settings import Settings
from et_pipeline.stages.bundle import host

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
    "8da8w": ("recipe=8da8w",),
    "8da8w-rotation": ("recipe=8da8w_rotation",),
}
UNCALIBRATED = ("8da8w", "8da8w-rotation")  # have no calibration that could be given another text
TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
COMMAND = "make bench-quality"
TOKENS, WINDOW, STRIDE = 8192, engines.LlamaCpp.BATCH, 256
FAITHFUL = 0.9999  # mean cosine of llama.cpp's logits with transformers', both in fp32 but llama.cpp's cache in fp16
SAME = 1e-5  # relative difference of the original's perplexity as the pipeline and as this module computes it
Logits = Callable[[list[int]], "torch.Tensor"]
"""Computes the logits of every position of a window, [N, vocabulary]."""

_LIBRARIES = ("executorch", "torch", "torchao", "transformers", "llama-cpp-python")


class Model(NamedTuple):
    """A checkpoint, the settings that choose it, and the texts that it is measured on and calibrated with."""

    name: str
    checkpoint: Path
    words: tuple[str, ...]
    text: str
    calibration: str


def models(texts: Path) -> list[Model]:
    """The built-in models.

    Args:
        texts: the folder that `tiny_writer.text` has written.

    Raises:
        UserError: a text is missing.
    """
    from et_pipeline.tiny_writer import CHECKPOINT  # not above: it is no part of the installed package

    for name in ("held_out.txt", "calibration.txt"):
        if not (texts / name).is_file():
            raise UserError(f"{texts / name} does not exist; `python -m et_pipeline.tiny_writer.text {texts}` makes it")
    words = ("model=custom", "model.name=tiny_writer", f"model.source={CHECKPOINT}", "model.max_context=512")
    ours = Model("tiny_assistant", tiny_assistant.CHECKPOINT, ("model=tiny_assistant",), BUILTIN, BUILTIN)
    held_out, calibration = (str(texts.resolve() / name) for name in ("held_out.txt", "calibration.txt"))
    return [ours, Model("tiny_writer", CHECKPOINT, words, held_out, calibration)]


def settings_of(model: Model, recipe: str) -> Settings:
    """The pipeline's settings of one of our programs."""
    words = [*model.words, *RECIPES[recipe], "task=chat", "until=verify", "verify.items_per_task=0"]
    words += [f"verify.text={model.text}", f"verify.text_tokens={TOKENS}", f"verify.window={WINDOW}"]
    words += [f"verify.stride={STRIDE}", "verify.sequences=4"]  # the text is what counts
    if recipe not in UNCALIBRATED:
        words += [f"recipe.calibration.source={model.calibration}"]
    return composed(words)


def measure_ours(
    model: Model, recipes: Sequence[str], parameters: int, logs: Path
) -> tuple[list[dict[str, Any]], float]:
    """Our recipes through the .pte, and the original's perplexity as the pipeline finds it."""
    rows = []
    for name in recipes:
        face = progress.face(quiet=False)
        try:
            (made,) = run([settings_of(model, name)], face, logs).programs
        finally:
            face.close()
        figures = Verified.model_validate(made.entries["verify"].figures)
        assert figures.text is not None
        assert figures.text.deployed is not None
        found, original = figures.text.deployed.model_dump(), figures.text.original
        rows.append(_row(f"{OURS} `{name}`", made.entries["lower"].folder / "model.pte", parameters) | found)
    return rows, original


def _row(name: str, path: Path, parameters: int) -> dict[str, Any]:
    bytes_ = path.stat().st_size
    return {"name": name, "file_bytes": bytes_, "bits_per_weight": 8 * bytes_ / parameters, "types": {}}


class Passage(NamedTuple):
    """Tokens that a model sees at once.

    Attributes:
        first: index of the first token that counts for perplexity.
        compared: the positions whose logits are compared with the original's.
    """

    ids: list[int]
    first: int
    compared: slice


def passages(model: Model) -> list[Passage]:
    """What the pipeline's verify stage reads with these settings: windows over a text."""
    facts, tokenizer = read_facts(model.checkpoint), read_tokenizer(model.checkpoint)
    ids = text_ids(model.text, resolve(KEY, model.text), TOKENS, facts, tokenizer)
    spans = windows(len(ids), WINDOW, STRIDE)
    return [Passage(ids[span.start : span.end], span.first, slice(span.first - 1, -1)) for span in spans]


class Text:
    """Passages, and the original's logits of them."""

    def __init__(self, parts: Sequence[Passage], original: Logits) -> None:
        self._parts = parts
        self._original = [original(part.ids) for part in parts]

    @property
    def tokens(self) -> int:
        """How many count for perplexity."""
        return sum(len(part.ids) - part.first for part in self._parts)

    @property
    def original(self) -> float:
        """The original's perplexity."""
        return self._perplexity(self._original)

    def _perplexity(self, found: Sequence[torch.Tensor]) -> float:
        pairs = zip(self._parts, found, strict=True)
        return perplexity(
            [loss(rows[part.first - 1 : -1], part.ids[part.first :]) for part, rows in pairs], self.tokens
        )

    def score(self, logits: Logits) -> dict[str, float]:
        """How a model does, and how near it is to the original.

        Returns:
            `perplexity`, `kl` (of the original to it, in nats), `top1` (share of equal choices) and `cosine`.
        """
        found = [logits(part.ids) for part in self._parts]
        pairs = zip(self._parts, found, self._original, strict=True)
        merged = merge([agreement(rows[part.compared], theirs[part.compared]) for part, rows, theirs in pairs])
        figures = {"kl": merged.kl, "top1": merged.top1, "cosine": merged.cosine}
        return {"perplexity": self._perplexity(found), **figures}


def read_text(model: Model) -> Text:
    """A model's passages, through transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model.checkpoint, dtype=torch.float32)

    def logits(tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return whole(torch.tensor([tokens])).logits[0]

    return Text(passages(model), logits)


def measure_peer(model: Model, text: Text, parameters: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """llama.cpp's types, and its file in fp32.

    Raises:
        UserError: llama.cpp computes another model than transformers, so its types say nothing of quantization.
    """
    rows = []
    with tempfile.TemporaryDirectory() as made:
        whole = Path(made) / "whole.gguf"
        peer_files.write_gguf(model.checkpoint, whole, exact=True)
        exact = text.score(_through_llama_cpp(whole))
        if exact["cosine"] < FAITHFUL:
            raise UserError(
                f"{model.name} in fp32 through llama.cpp has a cosine of {exact['cosine']:.6f} to transformers' "
                f"logits, below {FAITHFUL}: the file is not the same model, so its types cannot be compared"
            )
        for kind in TYPES:
            path = whole.with_name(f"{kind}.gguf")
            with quiet():
                peer_files.quantize_gguf(whole, path, kind)
            row = _row(f"{LLAMA_CPP} {kind}", path, parameters) | {"types": tensor_types(path)}
            rows.append(row | text.score(_through_llama_cpp(path)))
    return rows, exact


def _through_llama_cpp(path: Path) -> Logits:
    import torch

    with quiet():
        engine = engines.LlamaCpp(path, threads=1, context=WINDOW)
    return lambda tokens: torch.from_numpy(engine.every_logits(tokens))


def tensor_types(path: Path) -> dict[str, float]:
    """By type: the share of a GGUF file's weights that have it, the largest first."""
    from gguf import GGUFReader

    counts: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return {name: count / counts.total() for name, count in counts.most_common()}


def bench(texts: Path, recipes: Sequence[str]) -> dict[str, Any]:
    """Make and measure everything.

    Raises:
        UserError: llama.cpp is not installed or computes something else, a text is missing, or a recipe is unknown.
    """
    for name in recipes:
        if name not in RECIPES:
            raise UserError(f"--only={name} is none of {', '.join(RECIPES)}")
    reason = contenders.missing(LLAMA_CPP)
    if reason is not None:
        raise UserError(reason)
    logs, results = Path(tempfile.mkdtemp(prefix="quality_bench")), []
    for model in models(texts):
        parameters = read_facts(model.checkpoint).parameters
        text = read_text(model)
        theirs, exact = measure_peer(model, text, parameters)
        ours, original = measure_ours(model, recipes, parameters, logs)
        if abs(original / text.original - 1) > SAME:
            raise UserError(
                f"{model.name} has perplexity {original} in the pipeline and {text.original} here: they read "
                "different tokens"
            )
        results.append(
            {
                "model": model.name,
                "parameters": parameters,
                "tokens": text.tokens,
                "original": text.original,
                "llama_cpp_fp32": exact,
                "rows": sorted([*ours, *theirs], key=lambda row: row["file_bytes"]),
            }
        )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": host(),
        "command": "make bench-quality"
        if list(recipes) == list(RECIPES)
        else f"et_pipeline.bench.quality --only {','.join(recipes)}",
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "models": results,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m et_pipeline.bench.quality", description=__doc__)
    parser.add_argument("texts", type=Path, help="the folder that `python -m et_pipeline.tiny_writer.text` has written")
    parser.add_argument("--only", default=",".join(RECIPES), help="recipes of ours, the others are left out")
    parser.add_argument("--json", type=Path, default=None, help="keep the figures in this file")
    options = parser.parse_args(arguments)
    try:
        result = bench(options.texts, options.only.split(","))
    except UserError as error:
        sys.stderr.write(f"bench.quality: {error}\n")
        sys.exit(EXIT_USER)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(tables(result))


if __name__ == "__main__":
    main()
