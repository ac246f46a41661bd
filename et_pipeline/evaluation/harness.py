"""EleutherAI's lm-evaluation-harness on a bundle: the .pte itself is scored, in the runtime (extra `eval`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer
from tqdm import tqdm

from et_pipeline import manifest
from et_pipeline.checkpoints.tokenizer.file import normalize
from et_pipeline.errors import UserError
from et_pipeline.evaluation.perplexity import loss
from et_pipeline.runtime.program import Program
from et_pipeline.settings import first_line

Scored = tuple[tuple[str, str], list[int], list[int]]
"""Texts and token ids of a request: context and continuation."""


def evaluate(model: TemplateLM, tasks: Sequence[str], folder: Path | None, limit: int | None) -> Mapping[str, Any]:
    """Run tasks of the harness; returns its results as they are.

    Args:
        model: see `DeployedModel`.
        tasks: their names, groups and tags too.
        folder: where tasks of the user's own are, as YAML; they come before the harness's.
        limit: most items of a task; None takes all.

    Raises:
        UserError: there is no such task, its data cannot be had, or it asks for what the model has not.
    """
    manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise UserError(f"--tasks {unknown[0]} is no task of lm_eval; `lm_eval ls tasks` lists them.")
    try:
        results = simple_evaluate(model, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False)
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(f"The data of --tasks {','.join(tasks)} cannot be read ({first_line(error)}).") from error
    assert results is not None  # None only in the other processes of a distributed run
    return results


class DeployedModel(TemplateLM):
    """A bundle's program as a model of the harness. Texts become tokens as with the harness's own model class."""

    def __init__(self, program: Program, tokenizer: Tokenizer, special: manifest.Tokenizer, context: int) -> None:
        """Wrap a loaded program.

        Args:
            program: what is scored.
            tokenizer: the bundle's.
            special: which of its tokens begin a text and end an answer.
            context: most tokens that the program holds.
        """
        super().__init__()
        tokenizer.no_truncation()
        self.program, self.encoder, self.special, self.max_length = program, tokenizer, special, context
        self._read: list[int] = []
        self._expected = torch.empty(0)

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        return self.special.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        return self.eot_token_id if self.special.bos_id is None else self.special.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, with the begin-of-text token if the tokenizer adds one and the text has none yet."""
        if add_special_tokens is None:
            begin = self.encoder.id_to_token(self.prefix_token_id)
            add_special_tokens = begin is None or not string.startswith(begin)
        given = normalize(string, self.special.normalization, self.special.lstrip, self.special.rstrip)
        return self.encoder.encode(given, add_special_tokens=add_special_tokens).ids

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each request the log likelihood of its continuation, and whether a greedy answer begins with it."""
        return [
            self._likelihood(context, ids)
            for _, context, ids in tqdm(requests, desc="loglikelihood", disable=disable_tqdm)
        ]

    def _likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        if len(continuation) > self.max_length:
            raise UserError(
                f"A text to score has {len(continuation)} tokens, and the program's context holds {self.max_length}."
            )
        kept = context[-(self.max_length + 1 - len(continuation)) :]
        # The choices of an item share their context; where a choice is one token, nothing else has to be read.
        expected = self._expected if kept == self._read else self.program.prefill(torch.tensor([kept]))
        self._read, self._expected = ([], expected) if len(continuation) > 1 else (kept, expected)
        total, greedy = 0.0, True
        for at, token in enumerate(continuation):
            if at:
                last = torch.tensor([[continuation[at - 1]]])
                expected = self.program.forward(last, len(kept) + at - 1)
            total -= loss(expected.unsqueeze(0), [token])
            greedy &= int(expected.argmax()) == token
        return total, greedy

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log likelihood of whole texts, in windows of the whole context that do not overlap."""
        found = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs = [make_disjoint_window(window) for window in windows]
            parts = self._loglikelihood_tokens([(("", ""), *pair) for pair in pairs], disable_tqdm)
            found.append(sum(part for part, _ in parts))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, up to a stop string or the end that the model makes."""
        answers = []
        for request in tqdm(requests, desc="generate_until", disable=disable_tqdm):
            text, given = request.args
            asked = normalize_gen_kwargs(given)
            if asked["do_sample"]:
                raise UserError("A task asks for sampled answers, and a bundle is scored on its likeliest ones only.")
            budget = asked["max_gen_toks"]
            if budget >= self.max_length:
                raise UserError(
                    f"A task asks for answers of {budget} tokens, and the program's context holds {self.max_length}, "
                    "the prompt included: choose another task, or make the bundle with a larger model.max_context."
                )
            prompt = self.tok_encode(text)[budget - self.max_length :]
            answers.append(self._answer(prompt, budget, asked["until"]))
        return answers

    def _answer(self, prompt: list[int], budget: int, until: Sequence[str]) -> str:
        self._read = []
        answer: list[int] = []
        expected = self.program.prefill(torch.tensor([prompt]))
        while (token := int(expected.argmax())) not in self.special.eos_ids:
            answer.append(token)
            text = self.encoder.decode(answer)
            ends = [text.index(stop) for stop in until if stop in text]
            if ends or len(answer) == budget:
                return text[: min(ends, default=None)]
            expected = self.program.forward(torch.tensor([[token]]), len(prompt) + len(answer) - 1)
        return self.encoder.decode(answer)
