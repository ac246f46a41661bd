"""Text of the model's own: its answers to prompts, drawn as it would draw them.

On samples of the original, the mean of log p - log q is the divergence of the two models itself, whatever the language
and without any data set; calibration sees what the model will see when it answers, and a smaller model learns from it
what the original knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from et_pipeline.checkpoints.witness import use_sdpa
from et_pipeline.evaluation.prompts import CALIBRATION, EVIDENCE

if TYPE_CHECKING:
    from et_pipeline.checkpoints.facts import Facts
    from et_pipeline.runtime.program import Program

FILE = "samples.json"
PROMPTS = {"evidence": EVIDENCE, "calibration": CALIBRATION, "training": CALIBRATION}
CACHE_BYTES = 2_000_000_000  # of keys and values while answers are drawn
MOST_TOGETHER = 64
LONGEST_PROMPT = 96  # tokens; one that a tokenizer cuts into more is left out
ANSWERS = 16  # that a program draws itself, where the original does not fit into memory


class Conversation(NamedTuple):
    """A whole conversation as token ids."""

    ids: list[int]
    prompt: int  # how many of them are not the last answer's

    @property
    def first(self) -> int:
        """The position that predicts the answer's first token; 0 where there is no answer."""
        return self.prompt - 1 if 0 < self.prompt < len(self.ids) else 0

    def cut(self, limit: int) -> Conversation:
        """Its beginning, no longer than that."""
        return Conversation(self.ids[:limit], min(self.prompt, limit))


def prompts(part: str, count: int, facts: Facts, tokenizer: Any) -> list[list[int]]:
    """Token ids of as many prompts in the model's chat format, from the first on again where there are too few."""
    rendered = _rendered(PROMPTS[part], facts, tokenizer)
    short = [ids for ids in rendered if 0 < len(ids) <= LONGEST_PROMPT and max(ids) < facts.vocab_size]
    short = short or [min(rendered, key=len)[:LONGEST_PROMPT]]
    return [short[number % len(short)] for number in range(count)]


def _rendered(texts: Sequence[str], facts: Facts, tokenizer: Any) -> list[list[int]]:
    """Token ids of each in the model's chat format."""
    roles = ([{"role": "user", "content": text}] for text in texts)
    rendered = [tokenizer.encode(facts.chat.render(messages), add_special_tokens=False).ids for messages in roles]
    return rendered if facts.fed_bos_id is None else [[facts.fed_bos_id, *ids] for ids in rendered]


def openings(count: int, facts: Facts, tokenizer: Any) -> list[list[int]]:
    """Token ids of beginnings to learn from: by turns a prompt, and what the chat format puts before a user's message.

    From the latter the model asks itself what it takes for a question (Magpie, Xu et al. 2024, arXiv:2406.08464). A
    plain model begins with the token before or between texts.
    """
    bare = [] if facts.fed_bos_id is None else [facts.fed_bos_id]
    bare += tokenizer.encode(facts.chat.start_to_user, add_special_tokens=False).ids
    listed = prompts("training", -(-count // 2), facts, tokenizer)
    return [listed[at // 2] if at % 2 == 0 else bare or [facts.eos_ids[0]] for at in range(count)]


def draw(
    model: Any,
    given: Sequence[Sequence[int]],
    facts: Facts,
    length: int,
    advance: Callable[[int], None],
    past_end: bool = False,
) -> list[Conversation]:
    """The model's answers to prompts at temperature 1, the token that ends one included.

    Args:
        model: of transformers.
        given: token ids of each prompt.
        facts: the model's.
        length: most tokens of an answer.
        advance: takes how many prompts are done.
        past_end: go on behind the token that ends an answer with what the model expects there, to the whole length.
    """
    import torch
    from transformers import GenerationConfig

    eos_ids, cached = facts.eos_ids, 8 * facts.layers * facts.kv_heads * facts.head_dim * (LONGEST_PROMPT + length)
    together = max(1, min(MOST_TOGETHER, CACHE_BYTES // cached))

    use_sdpa(model)
    # The model's own settings would shape the distribution that is to be seen.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=None if past_end else list(eos_ids),
        pad_token_id=eos_ids[0],
    )
    order = sorted(range(len(given)), key=lambda number: len(given[number]))  # so that little is padded
    found: dict[int, Conversation] = {}
    for start in range(0, len(order), together):
        batch = order[start : start + together]
        longest = max(len(given[number]) for number in batch)
        tokens = torch.tensor([[eos_ids[0]] * (longest - len(given[number])) + list(given[number]) for number in batch])
        mask = torch.tensor([[0] * (longest - len(given[number])) + [1] * len(given[number]) for number in batch])
        with torch.no_grad():
            answers = model.generate(
                tokens.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=length
            )[:, longest:].tolist()
        for number, answer in zip(batch, answers, strict=True):
            ends = () if past_end else (at for at, token in enumerate(answer, 1) if token in eos_ids)
            end = next(iter(ends), len(answer))
            found[number] = Conversation([*given[number], *answer[:end]], len(given[number]))
        advance(len(batch))
    return [found[number] for number in range(len(given))]


def draw_by_program(
    program: Program, given: Sequence[list[int]], eos_ids: Sequence[int], length: int, advance: Callable[[int], None]
) -> list[Conversation]:
    """The same by a program, whose answers stand for the original's where that does not fit into memory."""
    import torch

    generator, found = torch.Generator().manual_seed(0), []
    for prompt in given:
        answer: list[int] = []
        logits = program.prefill(torch.tensor([prompt]))
        while len(answer) < length and (not answer or answer[-1] not in eos_ids):
            answer.append(int(torch.multinomial(logits.float().softmax(-1), 1, generator=generator)))
            logits = program.forward(torch.tensor([[answer[-1]]]), len(prompt) + len(answer) - 1)
        found.append(Conversation([*prompt, *answer], len(prompt)))
        advance(1)
    return found


def write(found: Sequence[Conversation], folder: Path) -> None:
    """Write conversations into a folder."""
    (folder / FILE).write_text(json.dumps([each._asdict() for each in found]), encoding="utf-8")


def read(folder: Path) -> list[Conversation]:
    """Read what `write` wrote."""
    return [Conversation(**each) for each in json.loads((folder / FILE).read_text(encoding="utf-8"))]
