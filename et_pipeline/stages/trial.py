"""trial: a quantized model against the original before it is exported: what `recipe=auto` chooses by; only figures."""

from __future__ import annotations

import gc
from pathlib import Path

from et_pipeline import forms
from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.facts import Facts
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.evaluation import own_text
from et_pipeline.evaluation.agreement import compare, eager_logits
from et_pipeline.evaluation.answers import losses
from et_pipeline.evaluation.evidence import first_round
from et_pipeline.quantization.torchao_config import load_quantized
from et_pipeline.settings import ExportForm, Quantization
from et_pipeline.stages import Tried
from et_pipeline.worker import Tick


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    kind: forms.Kind,
    quantization: Quantization,
    form: ExportForm,
) -> Tried:
    """Compare the logits of the model's own answers, in rounds that memory has room for."""
    folder, facts = inputs["checkpoint"], Facts.read(inputs["acquire"])
    length = forms.get(kind).sequence_length(form)
    texts = [each.cut(length) for each in own_text.read(inputs["evidence"])]
    size = first_round(len(texts), facts.vocab_size, length)
    found, lost = [], []
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        original = witness.load_original(folder)[0] if witness.fits(facts) else stream_model(folder)
        theirs = eager_logits(original, form.max_context, [text.ids for text in part])
        del original
        gc.collect()
        quantized = load_quantized(folder, inputs["quantize"], quantization)
        ours = eager_logits(quantized, form.max_context, [text.ids for text in part], kv_cache=form.kv_cache)
        del quantized
        gc.collect()
        found += [compare(a[text.first :], b[text.first :]) for a, b, text in zip(ours, theirs, part, strict=True)]
        lost += losses(theirs, ours, part)
        tick(len(found), len(texts))
    return Tried(found=found, losses=lost)
