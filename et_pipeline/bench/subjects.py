"""The models on which quality is compared with llama.cpp, and the texts that they read."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.source import prepare
from et_pipeline.errors import UserError
from et_pipeline.evaluation.text_source import BUILTIN
from et_pipeline.host import expanded
from et_pipeline.job.composed import composed

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
DESCRIPTIONS, OTHERS = "descriptions.txt", "other_descriptions.txt"
BEGINNING = 2000  # characters of a description, so that many packages are read
OURS = "et-pipeline"


class Model(NamedTuple):
    """A checkpoint, the settings that choose it, and the texts that it is measured on and calibrated with."""

    checkpoint: Path
    words: tuple[str, ...]
    text: str
    calibration: str


def _assistant(folder: Path) -> Model:
    return Model(tiny_assistant.CHECKPOINT, ("model=tiny_assistant",), BUILTIN, BUILTIN)


def _writer(folder: Path) -> Model:
    from et_pipeline.tiny_writer import CHECKPOINT  # not above: it is no part of the installed package

    for name in ("held_out.txt", "calibration.txt"):
        if not (folder / name).is_file():
            made_by = f"python -m et_pipeline.tiny_writer.text {folder}"
            raise UserError(f"{folder / name} does not exist; `{made_by}` makes it")
    words = ("model=custom", "model.name=tiny_writer", f"model.source={CHECKPOINT}", "model.max_context=512")
    held_out, calibration = (str(folder.resolve() / name) for name in ("held_out.txt", "calibration.txt"))
    return Model(CHECKPOINT, words, held_out, calibration)


def _smollm2(folder: Path) -> Model:
    """A real model, of which everybody quantizes what the numbers of a GGUF file stand for."""
    folder = folder.resolve()
    if not (folder / SMOLLM2).is_file():
        raise UserError(f"{folder / SMOLLM2} does not exist; make bench-quality downloads it")
    for name, text in zip((DESCRIPTIONS, OTHERS), descriptions(), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    words = ("model=smollm2_135m", f"model.source={folder / SMOLLM2}")
    settings = composed([*words, "task=chat"])
    place = Place(expanded(settings.paths.cache), folder / "logs")
    checkpoint, _ = prepare(settings.model.checkpoint, settings.seed, place)
    held_out, calibration = (str(folder / name) for name in (DESCRIPTIONS, OTHERS))
    return Model(checkpoint, ("model=smollm2_135m", f"model.source={checkpoint}"), held_out, calibration)


MODELS: dict[str, Callable[[Path], Model]] = {
    "tiny_assistant": _assistant,
    "tiny_writer": _writer,
    "SmolLM2-135M-Instruct": _smollm2,
}
"""By name: finds a model, given the folder of what was made or downloaded for it.

They raise UserError: something is missing there.
"""


def descriptions() -> tuple[str, str]:
    """Natural text that every installation has: how the packages installed here describe themselves, in their order.

    Returns:
        Of the first half of the packages, and of the others.
    """
    found = {each.name.lower(): each.metadata["Description"] or "" for each in metadata.distributions()}
    found.pop(OURS, None)  # which changes with each of our versions
    texts = [text[:BEGINNING].strip() for _, text in sorted(found.items()) if text.strip()]
    half = len(texts) // 2
    return "\n\n".join(texts[:half]), "\n\n".join(texts[half:])
