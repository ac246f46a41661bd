"""quantize: a checkpoint module by module, or an exported program by calibration; write the quantized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.facts import Facts, read_tokenizer
from et_pipeline.evaluation import calibration
from et_pipeline.quantization.calibrated import quantize_calibrated
from et_pipeline.quantization.torchao_config import quantize_checkpoint
from et_pipeline.runtime.embedding import padded
from et_pipeline.settings import Backend, Quantization
from et_pipeline.worker import Tick

CALIBRATION_LENGTH = 512  # tokens of one text


def run(
    inputs: dict[str, Path], out: Path, tick: Tick, *, quantization: Quantization, backend: Backend | None = None
) -> dict[str, Any]:
    """Quantize by the recipe: the checkpoint, unless `backend` quantizes what was exported.

    Raises:
        UserError: the weights do not fit config.json or the recipe, or there is too little calibration text.
    """
    requantized = {}
    if backend is None and (quantization.calibrated or quantization.transform != "none"):
        texts = _texts(inputs, quantization, CALIBRATION_LENGTH) if quantization.calibrated else []
        requantized = quantize_calibrated(inputs["checkpoint"], quantization, texts, out, tick)
    elif backend is None:
        requantized = quantize_checkpoint(inputs["checkpoint"], quantization, out, tick)
    else:
        _calibrate(inputs, out, tick, quantization, backend)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {"bytes": size, "requantized": requantized}


def _calibrate(inputs: dict[str, Path], out: Path, tick: Tick, q: Quantization, backend: Backend) -> None:
    # They import ExecuTorch, which costs seconds, and quantizing a checkpoint needs nothing of it.
    from et_pipeline.models.decoder import load_program, save_program
    from et_pipeline.models.external_cache import CacheDriver, load_programs, save_programs
    from et_pipeline.models.static_decoder import positions

    chosen: Any = get_backend(backend.name, backend.soc)
    if backend.prefill:
        methods = json.loads((inputs["export"] / "metadata.json").read_text())
        texts = _texts(inputs, q, methods["get_max_context_len"])
        driver = CacheDriver(lambda *_: (), methods)

        def feed_chunks(call: Any) -> None:
            driver.call = lambda _, given: call(*given)
            for done, text in enumerate(texts):
                # Padding would show ranges of no real text, so the last chunk is filled up with the text itself.
                whole = -(-len(text) // driver.chunk) * driver.chunk
                driver.feed((text * whole)[: min(whole, driver.context)])
                tick(done + 1, len(texts))

        save_programs(chosen.quantize_alike(load_programs(inputs["export"]), q, feed_chunks), out)
        return
    program = load_program(inputs["export"])
    facts = Facts.read(inputs["acquire"])
    embeds = facts.pooling is not None
    longest = program.example_inputs[0][0].shape[1] if embeds else positions(program)
    texts = _texts(inputs, q, longest)
    pad = json.loads((inputs["export"] / "metadata.json").read_text()).get("get_pad_id")

    def feed(call: Any) -> None:
        for done, text in enumerate(texts):
            if embeds:
                call(*padded(text, longest, pad))
            else:
                for position, token in enumerate(text):
                    call(torch.tensor([[token]]), torch.tensor([position]))
            tick(done + 1, len(texts))

    save_program(chosen.quantize(program, q, feed), out)


def _texts(inputs: dict[str, Path], q: Quantization, longest: int) -> list[list[int]]:
    if q.calibration is None:
        return []
    facts = Facts.read(inputs["acquire"])
    tokenizer = read_tokenizer(inputs["checkpoint"])
    return calibration.sequences(q.calibration, inputs.get("calibration"), facts, tokenizer, longest)
