"""Which linears keep 8 bits where the others get 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from et_pipeline.settings import Quantization


def with_8_bits(q: Quantization) -> Quantization:
    """The recipe of those linears: 8 bits per output channel, to the nearest step."""
    return q.model_copy(update={"scheme": "8da8w", "group_size": 0, "algorithm": "rtn"})


def in_8_bits(errors: Mapping[str, tuple[float, int]], q: Quantization) -> frozenset[str]:
    """Spend `q.mixed_bits` where a bit takes away most error: by error per weight, largest first.

    Args:
        errors: of each linear, what 4 bits do to the model's answers, and its number of weights.
        q: 4 bits in groups whose scales take 16 bits, or per output channel.

    Returns:
        Names of the linears.

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
    left = (q.mixed_bits - low) * sum(weights for _, weights in errors.values())
    chosen = set()
    for name, (_, weights) in sorted(errors.items(), key=lambda item: -item[1][0] / item[1][1]):
        if (8 - low) * weights <= left:
            left -= (8 - low) * weights
            chosen.add(name)
    return frozenset(chosen)
