"""verify: the .pte in the real runtime against the quantized eager model and the original; write no file, only figures.

The references are transformers' unmodified model with its own attention and cache, so a fault in our export form
cannot hide in both sides. The quantized one rounds keys and values as the program's cache does, by plain arithmetic.
The program is fed in three ways: the prompt in one piece, in chunks, and token by token.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline import forms
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.facts import Facts, read_tokenizer
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation.agreement import compare, eager_logits, greedy_agreement, merge, negative_log_likelihood
from et_pipeline.evaluation.embedding import verify_embeddings
from et_pipeline.evaluation.perplexity import Window, agreement, loss, perplexity, text_ids, windows
from et_pipeline.evaluation.reading import examine
from et_pipeline.evaluation.tasks import Item, accuracy, eager_answers, read_items
from et_pipeline.forms.base import FEEDINGS
from et_pipeline.manifest import Agreement
from et_pipeline.models.rope import freeze_rope
from et_pipeline.quantization.torchao_config import DYNAMIC, load_quantized
from et_pipeline.runtime.chat import greedy_answer
from et_pipeline.runtime.program import Program
from et_pipeline.settings import Backend, Evidence, ExportForm, Quantization, Task
from et_pipeline.tiny_assistant import EVAL
from et_pipeline.worker import Tick

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CHUNK = 7  # divides neither the prompts' lengths nor the prefill chunk: the last piece is a short one
SAMPLES = 4
LONG_END = 16  # tokens
LOGIT_BYTES = 1_000_000_000  # of one model's logits; three are in memory at a time
FEWEST_SEQUENCES = 4
LAST_BIT = 2e-7  # relative; float32 has steps of 1.2e-7
FARTHER = 256  # tokens behind the largest window
SMALL_BYTES = 64_000_000  # below, waking a second thread for each token costs more than it brings (0.4 against 1.2 ms)


def run(
    inputs: dict[str, Path],
    out: Path,
    tick: Tick,
    *,
    kind: forms.Kind,
    quantization: Quantization,
    form: ExportForm,
    task: Task,
    verify: Evidence,
    backend: Backend,
) -> dict[str, Any]:
    """Compare logits, answer held-out items and give sample answers.

    Where this host cannot execute the program, the quantized eager model is all that is compared with the original. A
    program that takes one token per call has one way of feeding, which then stands for all.

    Returns:
        `quantized` and `original` (agreement of the program with either, per way of feeding), `eager` (agreement of
        the quantized eager model with the original), `rounding` (of the quantized eager model with itself, its
        linears' inputs changed in the last bit; None where activations are not quantized), `long` (of the program with
        the quantized eager model at the end of a text that takes several calls and fills each sliding window; None
        where one call takes the whole context), `perplexity` of the answers, `text` (perplexity on a text, and
        agreement with the original on it; None without one), `greedy` (agreement of the answers to held-out items with
        the original's), `tasks` (accuracy of them in points) and `samples`. Of an encoder: see
        `verify_embeddings`.
    """
    facts, made_as = Facts.read(inputs["acquire"]), forms.get(kind)
    if made_as.embeds:
        pte = inputs["lower"] / "model.pte"
        folders = inputs["checkpoint"], inputs["quantize"]
        how_many = form.max_context, verify.sequences
        return verify_embeddings(*folders, pte, quantization, backend.name, facts, *how_many, tick)
    tokenizer = read_tokenizer(inputs["checkpoint"])
    # Any real text serves the comparison of logits; the built-in items are there for every model.
    chosen = get_backend(backend.name)
    texts = conversations(read_items(EVAL), verify.sequences, facts, tokenizer, made_as.sequence_length(form))
    sequences = [text.ids for text in texts]
    long_text = _long_text(sequences, facts.windows, form) if made_as.long else []
    scored = "evaluation" in inputs and chosen.can_execute
    items = read_items(inputs["evaluation"], verify.items_per_task) if scored else []
    prompts = [tokenizer.encode(facts.chat.render(i.messages), add_special_tokens=False).ids for i in items]
    budget = max((use.max_new_tokens for use in task.use_cases.values()), default=64)

    text, spans = [], []
    if verify.text is not None:
        text = text_ids(verify.text, inputs.get("text"), verify.text_tokens, facts, tokenizer)
        spans = windows(len(text), verify.window, verify.stride)

    total = (6 if quantization.scheme in DYNAMIC else 5) * len(sequences) + 2 * len(items) + 2 * bool(long_text)
    total += (3 if chosen.can_execute else 2) * len(spans)
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        tick(done, total)

    gguf = inputs.get("gguf")
    original_ids = []
    if items:
        _check_memory(facts, len(items))
    original = witness.load_original(inputs["checkpoint"], gguf is not None) if witness.fits(facts) else None
    if original is not None and items:
        freeze_rope(original[0], form.max_context)
        original_ids = eager_answers(original[0], prompts, facts.eos_ids, budget, advance)
    far = _far_text(sequences, facts.windows, form)
    reading = examine(inputs["checkpoint"], gguf, original, facts.layers, sequences, far, form.max_context)
    original_logits = reading.logits
    advance(len(sequences))
    del original
    gc.collect()

    def load_reference() -> Any:
        if chosen.calibrated:
            return made_as.reference(inputs["quantize"])
        # The quantized weights stay mapped to their files.
        return load_quantized(inputs["checkpoint"], inputs["quantize"], quantization)

    def reference_logits(reference: Any, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
        if chosen.calibrated:
            return made_as.reference_logits(reference, inputs["lower"], sequences, advance)
        advance(len(sequences))
        return eager_logits(reference, form.max_context, sequences, kv_cache=form.kv_cache)

    rounding = None
    quantized = load_reference()
    quantized_logits = reference_logits(quantized, sequences)
    if quantization.scheme in DYNAMIC:
        with _nudged(quantized):
            again = reference_logits(quantized, sequences)
        rounding = _merged(again, quantized_logits)
        del again
    long_logits = None
    if long_text:
        long_logits = eager_logits(quantized, form.max_context, [long_text], LONG_END, form.kv_cache)[0]
        advance(1)
    del quantized
    gc.collect()
    eager = _merged(quantized_logits, original_logits)

    def text_figures(program: Program | None) -> dict[str, Any] | None:
        if verify.text is None:
            return None

        def original(sequences: Sequence[list[int]]) -> list[torch.Tensor]:
            advance(len(sequences))
            if witness.fits(facts):
                model, _ = witness.load_original(inputs["checkpoint"], gguf is not None)
            else:
                model = stream_model(inputs["checkpoint"])
            return eager_logits(model, form.max_context, sequences)

        quantized = partial(reference_logits, load_reference())
        return _on_text(text, spans, original, quantized, program, facts.vocab_size, advance)

    if not chosen.can_execute:
        nothing: dict[str, Any] = {"quantized": {}, "original": {}, "perplexity": {"original": None}, "tasks": {}}
        nothing |= {"witness": reading.figures}
        nothing |= {"eager": eager, "rounding": None, "long": None, "greedy": None, "samples": []}
        return nothing | {"text": text_figures(None)}
    chosen.prepare()
    size = sum(file.stat().st_size for file in inputs["lower"].glob("model.*"))  # weights may have their own file
    program = made_as.open(inputs["lower"], threads=1 if size < SMALL_BYTES else None)

    fed = {way: [_feed(program, sequence, way, advance) for sequence in sequences] for way in made_as.ways}
    fed = {way: fed[way if way in fed else FEEDINGS[-1]] for way in FEEDINGS}
    answered = []
    for prompt in prompts:
        answered.append(program.greedy(prompt, budget, list(facts.eos_ids)))
        advance(1)
    scores = {
        "original": accuracy(items, [tokenizer.decode(ids) for ids in original_ids]),
        "deployed": accuracy(items, [tokenizer.decode(ids) for ids in answered]),
    }
    return {
        "quantized": {way: _agreement(fed[way], quantized_logits) for way in FEEDINGS},
        "original": {way: _agreement(fed[way], original_logits) for way in FEEDINGS},
        "witness": reading.figures,
        "eager": eager,
        "rounding": rounding,
        "long": None
        if long_logits is None
        else compare(_feed_long(program, long_text, advance), long_logits).model_dump(),
        "perplexity": {
            "original": _perplexity(original_logits, texts),
            "deployed": _perplexity([rows for _, rows in fed["token_by_token"]], texts),
        },
        "text": text_figures(program),
        "greedy": greedy_agreement(answered, original_ids).model_dump() if answered else None,
        "tasks": {
            name: {
                "original": scores["original"][name],
                "deployed": scores["deployed"][name],
                "items": sum(item.task == name for item in items),
            }
            for name in scores["original"]
        },
        "samples": _samples(program, facts, tokenizer, items, task),
    }


def _agreement(fed: Sequence[tuple[list[int], torch.Tensor]], reference: Sequence[torch.Tensor]) -> dict[str, float]:
    parts = [compare(rows, logits[positions]) for (positions, rows), logits in zip(fed, reference, strict=True)]
    return merge(parts).model_dump()


def _merged(found: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> dict[str, float]:
    return merge([compare(a, b) for a, b in zip(found, reference, strict=True)]).model_dump()


@contextmanager
def _nudged(model: PreTrainedModel) -> Iterator[None]:
    """Change the inputs of all linears in their last bit.

    Activations are rounded to 8 bits at run time: a number on the edge between two steps goes either way, and what
    follows differs visibly. A kernel that adds in another order does the same, so no program can be expected to agree
    with the eager model better than this one does with itself.
    """
    import torch

    generator = torch.Generator().manual_seed(0)

    def nudge(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0] * (1 + LAST_BIT * torch.randn(inputs[0].shape, generator=generator)),)

    hooks = [each.register_forward_pre_hook(nudge) for each in model.modules() if isinstance(each, torch.nn.Linear)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _perplexity(logits: Sequence[torch.Tensor], texts: Sequence[Conversation]) -> float | None:
    """Of the answers, given the conversations; None where no answer fits into a call."""
    total = sum(negative_log_likelihood(rows, text.ids, text.prompt) for rows, text in zip(logits, texts, strict=True))
    count = sum(len(text.ids) - text.prompt for text in texts)
    return math.exp(total / count) if count else None


class Conversation(NamedTuple):
    """A whole conversation as token ids."""

    ids: list[int]
    prompt: int  # how many of them are not the last answer's


def conversations(items: Sequence[Item], count: int, facts: Facts, tokenizer: Any, limit: int) -> list[Conversation]:
    """Whole conversations as token ids, spread over the items, no longer than one forward call takes."""
    count = min(count, max(FEWEST_SEQUENCES, LOGIT_BYTES // (4 * facts.vocab_size * limit)))
    step = max(1, len(items) // count)
    texts = []
    for item in items[::step][:count]:
        prompt = facts.chat.render(item.messages)
        ids = tokenizer.encode(prompt + item.answer, add_special_tokens=False).ids[:limit]
        texts.append(Conversation(ids, min(len(tokenizer.encode(prompt, add_special_tokens=False).ids), len(ids))))
    return texts


def _long_text(sequences: Sequence[list[int]], windows: Sequence[int | None], form: ExportForm) -> list[int]:
    """Token ids that take several calls and fill each sliding window; none where one call takes the whole context."""
    filled = max((window for window in windows if window is not None and window < form.max_context), default=0)
    length = min(form.max_context, max(filled, form.prefill_chunk) + 2 * form.prefill_chunk)
    ids = [token for sequence in sequences for token in sequence]
    return (ids * math.ceil(length / len(ids)))[:length] if length > form.prefill_chunk + LONG_END else []


def _far_text(sequences: Sequence[list[int]], windows: Sequence[int | None], form: ExportForm) -> list[int]:
    """Token ids that go beyond each sliding window of the original, whatever the program's calls take."""
    filled = max((window for window in windows if window is not None and window < form.max_context), default=0)
    ids = [token for sequence in sequences for token in sequence]
    length = min(form.max_context, filled + FARTHER)
    return (ids * math.ceil(length / len(ids)))[:length]


Logits = Callable[[Sequence[list[int]]], list["torch.Tensor"]]
"""Computes the logits of every position of some sequences, [length, vocabulary] each."""


def _on_text(
    text: Sequence[int],
    spans: Sequence[Window],
    original: Logits,
    quantized: Logits,
    program: Program | None,
    vocabulary: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Perplexity of each model on a text, and the agreement of two of them with the original.

    As many windows as their logits' memory allows go through an eager model at once, because each of its forwards may
    read the weights from disk. The program takes them one by one.
    """
    losses: dict[str, list[float]] = {"original": [], "quantized": [], "deployed": []}
    agreements: dict[str, list[Agreement]] = {"quantized": [], "deployed": []}
    together = max(1, LOGIT_BYTES // (4 * vocabulary * (spans[0].end - spans[0].start)))
    for at in range(0, len(spans), together):
        group = spans[at : at + together]
        sequences = [list(text[span.start : span.end]) for span in group]
        for span, ids, theirs, ours in zip(group, sequences, original(sequences), quantized(sequences), strict=True):
            targets, rows = ids[span.first :], slice(span.first - 1, -1)
            found = {"quantized": ours[rows]}
            if program is not None:
                found["deployed"] = _finite(program.continuation(ids, span.first), "a text")
                advance(1)
            losses["original"].append(loss(theirs[rows], targets))
            for name, logits in found.items():
                losses[name].append(loss(logits, targets))
                agreements[name].append(agreement(logits, theirs[rows]))
    tokens = len(text) - 1

    def figures(name: str) -> dict[str, float] | None:
        if not losses[name]:
            return None
        merged = merge(agreements[name])
        return {"perplexity": perplexity(losses[name], tokens), "kl": merged.kl, "top1": merged.top1}

    return {
        "tokens": tokens,
        "original": perplexity(losses["original"], tokens),
        "quantized": figures("quantized"),
        "deployed": figures("deployed"),
    }


def _check_memory(facts: Facts, items: int) -> None:
    """The original answers token by token, so all of it has to be in memory."""
    if not witness.fits(facts):
        raise UserError(
            f"verify.items_per_task asks for {items} answers of the original model, which takes "
            f"{4 * facts.parameters / 1e9:.0f} GB as float32, and this machine has {witness.memory_bytes() / 1e9:.0f} "
            "GB; set verify.items_per_task=0, which leaves the comparison of logits"
        )


def _feed(
    program: Program, sequence: list[int], way: str, advance: Callable[[int], None]
) -> tuple[list[int], torch.Tensor]:
    """Feed a sequence in one of the three ways; returns the positions whose logits came out, and these [N, V]."""
    import torch

    tokens = torch.tensor([sequence])
    length = len(sequence)
    positions, rows = [], []
    if way == "one_piece":
        for end in sorted({max(1, length // 3), max(1, 2 * length // 3), length}):
            positions.append(end - 1)
            rows.append(program.forward(tokens[:, :end], 0))
    else:
        size = 1 if way == "token_by_token" else CHUNK
        for start in range(0, length, size):
            end = min(start + size, length)
            positions.append(end - 1)
            rows.append(program.forward(tokens[:, start:end], start))
    advance(1)
    return positions, _finite(torch.stack(rows), way)


def _finite(logits: torch.Tensor, way: str) -> torch.Tensor:
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"the lowered program computes logits that are not finite (fed as {way}): the backend computes this "
            "recipe wrongly; choose another recipe"
        )
    return logits


def _feed_long(program: Program, text: list[int], advance: Callable[[int], None]) -> torch.Tensor:
    """Feed a long text in pieces as large as possible, its end token by token; the last logits [LONG_END, V]."""
    import torch

    tokens = torch.tensor([text])
    end = len(text) - LONG_END + 1
    rows = [program.prefill(tokens[:, :end])]
    rows += [program.forward(tokens[:, at : at + 1], at) for at in range(end, len(text))]
    advance(1)
    return _finite(torch.stack(rows), "a long text")


def _samples(program: Program, facts: Facts, tokenizer: Any, items: Sequence[Item], task: Task) -> list[dict[str, str]]:
    """Greedy answers that people can look at: to a held-out item of each use case, or to a greeting."""
    texts = {item.task: item.messages[0]["content"] for item in reversed(items) if len(item.messages) == 1}
    chosen = {name: texts[name] for name in task.use_cases if name in texts}
    if not chosen:
        name = next(iter(task.use_cases))
        chosen = {name: task.use_cases[name].template.replace("{text}", "Hello! What can you do?")}
    return [
        {
            "task": name,
            "prompt": text,
            "answer": greedy_answer(
                program,
                tokenizer,
                facts.manifest_chat(task.system_prompt),
                facts.manifest_tokenizer(),
                program.metadata["get_max_context_len"],
                text,
                task.use_cases[name].max_new_tokens,
            ),
        }
        for name, text in list(chosen.items())[-SAMPLES:]
    ]
