"""sample: draw text of the model's own, for calibration, training or evidence; write `samples.json`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.evaluation import own_text
from et_pipeline.quantization.walk import processor
from et_pipeline.settings import Samples
from et_pipeline.stages import Sampled
from et_pipeline.worker import Tick


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, samples: Samples) -> Sampled:
    """Let the original answer prompts.

    Where it does not fit into memory, a token takes seconds: what is calibrated with is drawn all the same, and of
    evidence the prompts alone are written, which the program answers later.
    """
    folder, facts = inputs["checkpoint"], Facts.read(inputs["acquire"])
    tokenizer = Folder(folder).tokenizer
    trains = samples.part == "training"
    begin = own_text.openings if trains else partial(own_text.prompts, samples.part)
    given = begin(samples.sequences, facts, tokenizer)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tick(done, len(given))

    if witness.fits(facts):
        model = witness.load_original(folder)[0]
        if trains:  # evidence and calibration are the same on each machine
            model.to(processor())
    elif samples.part != "evidence":
        model = stream_model(folder)
    else:
        own_text.write([own_text.Conversation(ids, len(ids)) for ids in given[: own_text.ANSWERS]], out)
        return Sampled(tokens=0)
    found = own_text.draw(model, given, facts, samples.length, advance, past_end=trains)
    own_text.write(found, out)
    return Sampled(tokens=sum(len(each.ids) - each.prompt for each in found))
