"""A program that takes adapters, two of them, and what Python's runtime answers with each, loaded with it.

For the test that Android's library answers the same when they are exchanged in the loaded program. Run with the
project's own Python: `python tools/adapters.py OUT`.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import torch

from et_pipeline import tiny_assistant
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.adapted import make_adaptable
from et_pipeline.models.decoder import Decoder, export_decoder, metadata
from et_pipeline.quantization.torchao_config import quantize_module
from et_pipeline.runtime.program import quiet, runtime_library
from et_pipeline.settings import ExportForm, Quantization
from et_pipeline.upstream.tensor_file import tensor_shapes, with_tensors

FORM = ExportForm(max_context=256, prefill_chunk=64, adapter_rank=4)
RECIPE = Quantization(
    scheme="8da4w", group_size=32, mapping="symmetric_no_clipping_error", embedding_bits=8, embedding_group_size=0
)
SPREAD = 0.25  # of an adapter's numbers: enough for other answers
TOKENS = 40
PROMPTS = (
    "What is the capital of Italy?",
    "Translate to French: The train arrives at eight o'clock.",
    "Suggest three replies: I am running late.",
)


def main(out: Path) -> None:
    """Writes model.pte, model.ptd, a.ptd, b.ptd, tokenizer.json and answers.json."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = load_model(tiny_assistant.CHECKPOINT, partial(quantize_module, q=RECIPE))
    make_adaptable(model, FORM.adapter_rank)
    decoder = Decoder(model, FORM)
    get_backend("xnnpack").lower(export_decoder(decoder), metadata(decoder, 1, [2]), out / "model.pte")
    shutil.copy(tiny_assistant.CHECKPOINT / "tokenizer.json", out)
    shapes = tensor_shapes(out / "model.ptd")
    for seed, name in enumerate(("a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {key: SPREAD * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        (out / f"{name}.ptd").write_bytes(with_tensors(out / "model.ptd", tensors))
    answers = {name: [_answer(out, name, prompt) for prompt in PROMPTS] for name in ("model", "a", "b")}
    (out / "answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _answer(folder: Path, name: str, message: str) -> dict[str, str]:
    """A prompt and the answer of the program that was loaded with an adapter."""
    with quiet():
        runtime_library()
        from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

        prompt = f"<|begin|><|user|>{message}<|end|><|assistant|>"
        pieces: list[str] = []
        runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.json"), str(folder / f"{name}.ptd"))
        config = GenerationConfig(echo=False, temperature=0.0, max_new_tokens=TOKENS)
        runner.generate(prompt, config, pieces.append, None)
        return {"prompt": prompt, "answer": "".join(pieces)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
