"""Which linears keep 8 bits where the others get 4, and which of those get their inputs as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from et_pipeline.quantization.sensitivity import Loss
    from et_pipeline.settings import Quantization

# A linear whose inputs cost so many times the mean of all when they are rounded reads them as floats. A few tokens have
# a number there that is thousands of times the others (Sun et al. 2024, arXiv:2402.17762), in the inputs of some
# layers' last linear: four or six of SmolLM2-135M's 211, as the text goes; the six have 60 % of what rounding costs.
OUTLIER = 10


def with_8_bits(q: Quantization, floats: bool = False) -> Quantization:
    """The recipe of those linears: 8 bits per output channel, to the nearest step; `floats`: inputs stay floats."""
    scheme = "int8_weight_only" if floats else "8da8w"
    return q.model_copy(update={"scheme": scheme, "group_size": 0, "algorithm": "rtn", "mixed_bits": None})


def in_8_bits(losses: Mapping[str, Loss], q: Quantization) -> dict[str, Quantization]:
    """Spend `q.mixed_bits` where a bit takes away most error: by error per weight, largest first.

    Args:
        losses: of each linear, what rounding does to the model's answers.
        q: 4 bits in groups whose scales take 16 bits, or per output channel.

    Returns:
        The recipe of each linear in 8 bits.

    Raises:
        UserError: 4 bits alone take more.
    """
    assert q.mixed_bits is not None
    low = 4 + (16 / q.group_size if q.group_size else 0)
    if q.mixed_bits < low:
        raise UserError(
            f"recipe.mixed_bits={q.mixed_bits} is less than the {low:g} bits per weight that 4 bits with "
            f"recipe.group_size={q.group_size} take; ask for more, or for larger groups"
        )
    limit = OUTLIER * sum(each.activations for each in losses.values()) / max(1, len(losses))
    floats = {name for name, each in losses.items() if each.activations > limit}

    def spared(name: str) -> float:
        found = losses[name]
        return (found.rounded + (found.activations if name in floats else 0)) / found.weights

    left = (q.mixed_bits - low) * sum(each.weights for each in losses.values())
    chosen = {}
    for name in sorted(losses, key=spared, reverse=True):
        more = (8 - low) * losses[name].weights
        if more < left + 1:  # bit: sums of floats are not exact
            left -= more
            chosen[name] = with_8_bits(q, name in floats)
    return chosen
