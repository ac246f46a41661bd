"""quantize: a checkpoint module by module, or an exported program by calibration; write the quantized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from et_pipeline.backends import get_backend
from et_pipeline.evaluation import calibration
from et_pipeline.models.decoder import load_program, save_program
from et_pipeline.models.facts import Facts, read_tokenizer
from et_pipeline.models.static_decoder import positions
from et_pipeline.quantization.torchao_config import quantize_checkpoint
from et_pipeline.runtime.embedding import padded
from et_pipeline.settings import Backend, Quantization
from et_pipeline.worker import Tick


def run(
    inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization, backend: Backend | None = None
) -> dict[str, Any]:
    """Quantize by the recipe: the checkpoint, unless `backend` quantizes what was exported.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or there is too little calibration text.
    """
    if backend is None:
        quantize_checkpoint(inputs["checkpoint"], quantization, out, tick)
    else:
        _calibrate(inputs, out, tick, quantization, backend)
    return {"bytes": sum(file.stat().st_size for file in out.iterdir())}


def _calibrate(inputs: dict[str, Path], out: Path, tick: Tick, q: Quantization, backend: Backend) -> None:
    program = load_program(inputs["export"])
    facts = Facts.read(inputs["acquire"])
    embeds = facts.pooling is not None
    longest = program.example_inputs[0][0].shape[1] if embeds else positions(program)
    texts: list[list[int]] = []
    if q.calibration is not None:
        texts = calibration.sequences(q.calibration, facts, read_tokenizer(inputs["checkpoint"]), longest)
    pad = json.loads((inputs["export"] / "metadata.json").read_text()).get("get_pad_id")

    def feed(call: Any) -> None:
        for done, text in enumerate(texts):
            if embeds:
                call(*padded(text, longest, pad))
            else:
                for position, token in enumerate(text):
                    call(torch.tensor([[token]]), torch.tensor([position]))
            tick(done + 1, len(texts))

    chosen: Any = get_backend(backend.name, backend.soc)
    save_program(chosen.quantize(program, q, feed), out)
