"""A model that answers: its program against the quantized eager model and the original, step by step.

The references are transformers' unmodified model with its own attention and cache, so a fault in our export form
cannot hide in both sides. The quantized one rounds keys and values as the program's cache does, by plain arithmetic.
The program is fed in three ways: the prompt in one piece, in chunks, and token by token.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline import host, manifest
from et_pipeline.checkpoints import witness
from et_pipeline.checkpoints.reader import stream_model
from et_pipeline.errors import UserError
from et_pipeline.evaluation import on_text
from et_pipeline.evaluation.agreement import compare as near
from et_pipeline.evaluation.agreement import eager_logits, greedy_agreement, merge, negative_log_likelihood
from et_pipeline.evaluation.evidence import LONG_END, Evidence, gather
from et_pipeline.evaluation.feeding import FEEDINGS, Fed, feed, feed_long
from et_pipeline.evaluation.own_text import Conversation
from et_pipeline.evaluation.reading import examine
from et_pipeline.evaluation.subject import Advance, Subject
from et_pipeline.evaluation.tasks import accuracy, eager_answers
from et_pipeline.evaluation.verified import Losses, Verified, Ways, Witnessed
from et_pipeline.models.rope import freeze_rope
from et_pipeline.quantization.torchao_config import DYNAMIC
from et_pipeline.runtime.chat import greedy_answer
from et_pipeline.settings import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from et_pipeline.runtime.program import Program

__all__ = ["compare", "gather", "original", "program", "quantized"]

SAMPLES = 4
SMALL_BYTES = 64_000_000  # below, waking a second thread for each token costs more than it brings (0.4 against 1.2 ms)
LAST_BIT = 2e-7  # relative; float32 has steps of 1.2e-7


class Original(NamedTuple):
    """What the original computes: logits of each conversation [length, vocabulary], and answers to held-out items."""

    logits: list[torch.Tensor]
    answers: list[list[int]]
    witness: Witnessed


class Quantized(NamedTuple):
    """What the quantized model computes before it is lowered; `long` are the logits at the end of the long text."""

    logits: list[torch.Tensor]
    rounding: manifest.Agreement | None
    long: torch.Tensor | None


class Deployed(NamedTuple):
    """What the program computes: of each conversation by way of feeding, and answers to held-out items."""

    program: Program
    fed: dict[str, list[Fed]]
    answers: list[list[int]]
    long: torch.Tensor | None


def original(subject: Subject, evidence: Evidence, advance: Advance) -> Original:
    """Ask the witness for the original's logits and answers."""
    if evidence.items:
        _check_memory(subject, len(evidence.items))
    loaded = None
    if witness.fits(subject.facts):
        loaded = witness.load_original(subject.checkpoint, subject.gguf is not None)
    answers: list[list[int]] = []
    if loaded is not None and evidence.items:
        freeze_rope(loaded[0], subject.form.max_context)
        answers = eager_answers(loaded[0], evidence.prompts, subject.facts.eos_ids, evidence.budget, advance)
    reading = examine(
        subject.checkpoint,
        subject.gguf,
        loaded,
        subject.facts.layers,
        evidence.sequences,
        evidence.far,
        subject.form.max_context,
    )
    advance(len(evidence.sequences))
    del loaded
    gc.collect()
    return Original(reading.logits, answers, reading.witness)


def quantized(subject: Subject, evidence: Evidence, advance: Advance) -> Quantized:
    """Compute the logits of the quantized model, and how far it is from itself where activations are rounded."""
    form = subject.form
    model = subject.load_quantized()
    logits = quantized_logits(subject, model, evidence.sequences, advance)
    rounding = None
    if evidence.first and subject.quantization.scheme in DYNAMIC:
        with nudged(model):
            rounding = _merged(quantized_logits(subject, model, evidence.sequences, advance), logits)
    long = None
    if evidence.long:
        long = eager_logits(model, form.max_context, [evidence.long], LONG_END, form.kv_cache)[0]
        advance(1)
    del model
    gc.collect()
    return Quantized(logits, rounding, long)


def program(subject: Subject, evidence: Evidence, advance: Advance) -> Deployed:
    """Execute the .pte: a program that takes one token per call has one way of feeding, which stands for all.

    That all ways give the same is seen in the first round.
    """
    opened = subject.open_program(threads=1 if subject.program_bytes < SMALL_BYTES else None)
    fed: dict[str, list[Fed]] = {}
    ways = subject.made_as.ways
    for way in ways if evidence.first else ("token_by_token",):
        fed[way] = []
        for sequence in evidence.sequences:
            fed[way].append(feed(opened, sequence, way))
            advance(1)
    answers = []
    for prompt in evidence.prompts:
        answers.append(opened.greedy(prompt, evidence.budget, list(subject.facts.eos_ids)))
        advance(1)
    long = feed_long(opened, evidence.long, LONG_END, advance) if evidence.long else None
    fed |= {way: fed["token_by_token"] for way in FEEDINGS if way not in ways}
    return Deployed(opened, fed, answers, long)


def compare(
    subject: Subject,
    evidence: Evidence,
    theirs: Original,
    eager: Quantized,
    deployed: Deployed | None,
    task: Task,
    advance: Advance,
) -> Verified:
    """Hold what the three computed against each other; `deployed` is None where this host cannot execute it."""
    found = Verified(
        witness=theirs.witness,
        eager=_each(eager.logits, theirs.logits, evidence.texts),
        rounding=eager.rounding,
        text=_text(subject, evidence, deployed, advance) if evidence.spans else None,
    )
    if deployed is None:
        return found
    answered = [subject.tokenizer.decode(ids) for ids in deployed.answers]
    meant = [subject.tokenizer.decode(ids) for ids in theirs.answers]
    stepwise = [fed.rows for fed in deployed.fed["token_by_token"]]
    return found.model_copy(
        update={
            "quantized": _ways(deployed, eager.logits),
            "original": _ways(deployed, theirs.logits, evidence.texts),
            "long": None if deployed.long is None or eager.long is None else near(deployed.long, eager.long),
            "losses": losses(theirs.logits, stepwise, evidence.texts),
            "greedy": greedy_agreement(deployed.answers, theirs.answers) if answered else None,
            "tasks": _scores(evidence, meant, answered),
            "samples": _samples(subject, evidence, deployed.program, task) if evidence.first else [],
        }
    )


def quantized_logits(
    subject: Subject, model: Any, sequences: Sequence[list[int]], advance: Advance
) -> list[torch.Tensor]:
    """Logits of every position of each sequence by the model of `Subject.load_quantized`."""
    form = subject.form

    def eager(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        return eager_logits(model, form.max_context, sequences, kv_cache=form.kv_cache)

    return subject.quantized_outputs(model, sequences, advance, eager)


@contextmanager
def nudged(model: PreTrainedModel) -> Iterator[None]:
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


def _text(subject: Subject, evidence: Evidence, deployed: Deployed | None, advance: Advance) -> Any:
    """Perplexity on a text; the original is loaded again, as its logits of all of it would fill the memory."""

    def theirs(sequences: Sequence[list[int]]) -> list[torch.Tensor]:
        advance(len(sequences))
        if witness.fits(subject.facts):
            model, _ = witness.load_original(subject.checkpoint, subject.gguf is not None)
        else:
            model = stream_model(subject.checkpoint)
        return eager_logits(model, context, sequences)

    context = subject.form.max_context
    ours = partial(quantized_logits, subject, subject.load_quantized(), advance=advance)
    executed = deployed and deployed.program
    return on_text.score(evidence.text, evidence.spans, theirs, ours, executed, subject.facts.vocab_size, advance)


def _ways(deployed: Deployed, reference: Sequence[torch.Tensor], texts: Sequence[Conversation] | None = None) -> Ways:
    """Per way of feeding and sequence; of `texts`, what predicts an answer's tokens alone counts."""

    def over(way: str) -> list[manifest.Agreement]:
        found = []
        for number, (fed, logits) in enumerate(zip(deployed.fed[way], reference, strict=True)):
            first = 0 if texts is None else texts[number].first
            kept = [row for row, position in enumerate(fed.positions) if position >= first]
            if kept:
                found.append(near(fed.rows[kept], logits[[fed.positions[row] for row in kept]]))
        return found

    return {way: over(way) for way in deployed.fed}


def _each(
    found: Sequence[torch.Tensor], reference: Sequence[torch.Tensor], texts: Sequence[Conversation]
) -> list[manifest.Agreement]:
    return [near(a[text.first :], b[text.first :]) for a, b, text in zip(found, reference, texts, strict=True)]


def _merged(found: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> manifest.Agreement:
    return merge([near(a, b) for a, b in zip(found, reference, strict=True)])


def losses(
    original: Sequence[torch.Tensor], deployed: Sequence[torch.Tensor], texts: Sequence[Conversation]
) -> list[Losses]:
    """Of each answer, given its prompt; none where no answer fits into a call.

    Args:
        original: logits of each text, [length, vocabulary].
        deployed: those of what was made of it.
        texts: the conversations.
    """
    return [
        Losses(
            tokens=len(text.ids) - text.prompt,
            original=negative_log_likelihood(theirs, text.ids, text.prompt),
            deployed=negative_log_likelihood(ours, text.ids, text.prompt),
        )
        for theirs, ours, text in zip(original, deployed, texts, strict=True)
        if 0 < text.prompt < len(text.ids)
    ]


def _scores(evidence: Evidence, meant: Sequence[str], answered: Sequence[str]) -> dict[str, manifest.TaskScore]:
    """Exact matches of the original and the program, in points per task."""
    items = evidence.items
    before, after = accuracy(items, meant), accuracy(items, answered)
    return {
        name: manifest.TaskScore(
            original=before[name], deployed=after[name], items=sum(item.task == name for item in items)
        )
        for name in before
    }


def _check_memory(subject: Subject, items: int) -> None:
    """The original answers token by token, so all of it has to be in memory."""
    if not witness.fits(subject.facts):
        raise UserError(
            f"verify.items_per_task asks for {items} answers of the original model, which takes "
            f"{4 * subject.facts.parameters / 1e9:.0f} GB as float32, and this machine has "
            f"{host.memory_bytes() / 1e9:.0f} GB; set verify.items_per_task=0, which leaves the comparison of logits"
        )


def _samples(subject: Subject, evidence: Evidence, program: Program, task: Task) -> list[manifest.Sample]:
    """Greedy answers that people can look at: to a held-out item of each use case, or to a greeting."""
    single = [item for item in reversed(evidence.items) if len(item.messages) == 1]
    texts = {item.task: item.messages[0]["content"] for item in single}
    chosen = {name: texts[name] for name in task.use_cases if name in texts}
    if not chosen:
        name = next(iter(task.use_cases))
        chosen = {name: task.use_cases[name].template.replace("{text}", "Hello! What can you do?")}
    facts, context = subject.facts, program.metadata["get_max_context_len"]
    chat, tokens = facts.manifest_chat(task.system_prompt), facts.manifest_tokenizer()

    def answer(name: str, text: str) -> str:
        most = task.use_cases[name].max_new_tokens
        return greedy_answer(program, subject.tokenizer, chat, tokens, context, text, most)

    return [
        manifest.Sample(task=name, prompt=text, answer=answer(name, text))
        for name, text in list(chosen.items())[-SAMPLES:]
    ]
