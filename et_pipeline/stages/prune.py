"""prune: a smaller checkpoint of the same family, without the layers or the channels that matter least."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.adaptation.divergence import divergence
from et_pipeline.adaptation.pruning import prune_depth, prune_width
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.calibration import learned
from et_pipeline.settings import LearnedText, Prune
from et_pipeline.stages import Pruned
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, prune: Prune, text: LearnedText) -> Pruned:
    """Cut the checkpoint, and compare what is left with the original.

    Raises:
        UserError: the family cannot be cut like that, or not so small.
    """
    how = {"prune_depth": prune_depth, "prune_width": prune_width}[prune.by]
    found = how(inputs["checkpoint"], out, prune.size, learned(text, inputs), tick)
    moved = divergence(inputs["original"], out, own_text.read(inputs["evidence"]), lambda *_: None)
    return Pruned(**found._asdict(), **moved.figures())
