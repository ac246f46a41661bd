"""`recipe=auto`: try ordinary recipes on this model, and take the first in the wanted order that passes.

Each try quantizes the model and compares it, before any export, with the original on the model's own answers. A try is
two stages like any other, so a search that was killed goes on where it stopped, and a second one reads the cache. What
is promised so, the program has to keep: where it is too far from the original, the search goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from et_pipeline import forecast, gemma
from et_pipeline.architecture import Architecture, find_family
from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.evaluation.gate import judge_tried, too_far
from et_pipeline.manifest import Check, Gate
from et_pipeline.settings import Recipe, Settings
from et_pipeline.stages import Tried
from et_pipeline.states import kinds_of_layers

#: What a search chooses itself, as `recipe=auto` comes: another value there would be passed over.
CHOSEN = {
    "scheme": "8da4w",
    "group_size": 32,
    "mapping": "symmetric_no_clipping_error",
    "algorithm": "rtn",
    "transform": "none",
    "mixed_bits": None,
}
MIXED_BITS = (4.5, 4.75, 5.0, 5.25, 5.5, 5.75, 6.0, 6.5, 7.0, 8.0)  # from all in 4 bits, with groups' scales, on
MIXED_4 = f"recipe=8da4w_mixed recipe.mixed_bits={MIXED_BITS[0]}"  # leaves integers of a checkpoint as they are


class Candidate(NamedTuple):
    """An ordinary recipe.

    Attributes:
        words: ask for it on the command line.
        bytes: of the program, as forecast.
        apart: keeps integers that the checkpoint has, so that what it loses says nothing of the others.
    """

    words: str
    recipe: Recipe
    bytes: int
    apart: bool = False


class Trial(NamedTuple):
    """What a try found.

    Attributes:
        words: ask for the recipe on the command line.
        bytes: of the program, as forecast.
        checks: the quantized eager model's figures against the thresholds; the first one is the KL.
        passed: whether it keeps to them.
        program: whether the program that was made of it passed the gate; None where none was made.
    """

    words: str
    bytes: int
    checks: list[Check]
    passed: bool
    program: bool | None = None


def ladder(turns: bool) -> dict[str, dict[str, Any]]:
    """What is tried, by the words that ask for it; `turns`: the model's layers can be rotated."""
    turn, how = ("_rotation", "rotation") if turns else ("", "none")
    groups = {"scheme": "8da4w", "group_size": 32, "mixed_bits": None}
    channels = {"group_size": 0, "mapping": "symmetric", "mixed_bits": None, "algorithm": "rtn"}
    dashed = turn.replace("_", "-")
    gptq = {**groups, "algorithm": "gptq", "transform": how}
    found: dict[str, dict[str, Any]] = {
        f"recipe=8da4w{turn}_mixed recipe.mixed_bits={bits}": {
            **gptq,
            "mixed_bits": bits,
            "name": f"8da4w{dashed}-mixed{bits}-g32",
        }
        for bits in MIXED_BITS
    }
    found |= {
        f"recipe=8da8w{turn}": {**channels, "scheme": "8da8w", "transform": how, "name": f"8da8w{dashed}"},
        "recipe=int8_weight_only": {
            **channels,
            "scheme": "int8_weight_only",
            "transform": "none",
            "name": "int8_weight_only",
        },
    }
    return found if turns else {"recipe=8da4w": {**groups, "algorithm": "rtn", "name": "8da4w-g32"}, **found}


def candidates(settings: Settings, known: Architecture, family: str, stored: bool) -> list[Candidate]:
    """The recipes that the backend has kernels for and the model's shapes allow, in the order that is preferred.

    Args:
        settings: with `recipe.prefer`.
        known: the model's shape.
        family: its `model_type`.
        stored: the checkpoint is quantized already. Turned its integers do not stay, so one recipe is tried besides
            that leaves all as it is.

    Raises:
        UserError: there is none.
    """
    backend = get_backend(settings.backend.name, settings.backend.soc)
    kind = find_family(family)
    found = []
    plain = kind is not None and not kind.four_norms and "gemma" not in family
    turns = plain and not kinds_of_layers(family)  # layers with a mixer have other linears
    apart = {MIXED_4: ladder(False)[MIXED_4]} if turns and stored else {}
    for words, change in {**apart, **ladder(turns)}.items():
        recipe = settings.recipe.model_copy(update={**change, "prefer": None})
        if family in gemma.KINDS and recipe.mixed_bits is not None:  # see `gemma.check_walked`
            continue
        try:
            forecast.check_groups(known, recipe)
        except UserError:
            continue
        if backend.supports(recipe.quantization).ok:
            found.append(Candidate(words, recipe, forecast.pte_bytes(known, recipe), words in apart))
    if settings.recipe.prefer != "speed":  # what is as large as a mixed recipe is farther from the original
        mixed = {each.recipe.mixed_bits: each.bytes for each in found}
        least = {"8da4w": mixed.get(MIXED_BITS[0]), "8da8w": mixed.get(MIXED_BITS[-1])}
        found = [
            each
            for each in found
            if each.recipe.mixed_bits is not None or each.bytes < (least.get(each.recipe.scheme) or math.inf)
        ]
    if not found:
        raise UserError(f"recipe=auto knows no recipe for backend={settings.backend.name}; choose one yourself")

    def seconds(each: Candidate) -> float:
        plan = forecast.forecast(settings, known, each.recipe, settings.device)
        return plan.ttft_s + settings.measure.decode_tokens / plan.decode_tok_s

    ordered = sorted(found, key=seconds if settings.recipe.prefer == "speed" else lambda each: each.bytes)
    return ordered[::-1] if settings.recipe.prefer == "quality" else ordered


def choose(
    ordered: Sequence[Candidate],
    wanted: Recipe,
    attempt: Callable[[Recipe], Tried],
    make: Callable[[Recipe], Gate | None],
) -> list[Trial]:
    """Make the first candidate that passes and whose program is not too far from the original.

    By size it is found by halves, since what takes more bytes is as good or better; else one is tried after the other.
    Where none passes, the one with the least KL is made.

    Args:
        ordered: of `candidates`.
        wanted: `recipe=auto`, with what it prefers and the thresholds.
        attempt: tries one.
        make: makes the program of one; returns the gate's verdict, None where the run stops before that.

    Returns:
        All that was tried; the program that was made last is the chosen one's.
    """
    path: dict[int, Trial] = {}

    def passes(at: int) -> bool:
        if at not in path:
            one = ordered[at]
            tried = attempt(one.recipe)
            found = judge_tried(tried.found, tried.losses, wanted.gate)
            path[at] = Trial(one.words, one.bytes, found.checks, found.passed)
        return path[at].passed

    def made(at: int) -> bool:
        verdict = make(ordered[at].recipe)
        path[at] = path[at]._replace(program=None if verdict is None else verdict.passed)
        return verdict is None or not too_far(verdict)

    low, high = 0, len(ordered) - 1
    if wanted.prefer == "size" and ordered[0].apart:
        low, high = (0, 0) if passes(0) else (1, high)
    while wanted.prefer == "size" and low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    if not any(passes(at) and made(at) for at in range(low, len(ordered))):
        made(min(path, key=lambda at: path[at].checks[0].value))
    return [path[at] for at in sorted(path)]
