"""A tied table in a rotated model: it stays as it is, and what comes out of it and goes into it is turned.

Were the rotation multiplied into the table, the embedding's and the head's would be two. So each is computed with the
one table, quantized once and stored once, and a matrix of the width of the residual stream beside it. That has 4 bits
per weight: the numbers of a Hadamard matrix have one magnitude, so nothing is lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Turn(nn.Linear):
    """The matrix; no recipe quantizes it otherwise."""


class TurnedEmbedding(nn.Embedding):
    """Gives rows of the table, turned into the rotated stream."""

    turn: Turn

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look tokens up, [..., width] float32."""
        turned: torch.Tensor = self.turn(super().forward(tokens))
        return turned


class TurnedHead(nn.Linear):
    """Takes the rotated stream after its norm, turns it back and gives it the norm's gain."""

    turn: Turn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits [..., vocabulary]."""
        return super().forward(self.turn(hidden))


def turned(table: Any, matrix: torch.Tensor) -> None:
    """Make an embedding or a head a turned one, in place.

    Args:
        table: the module.
        matrix: [width, width], what the embedding's rows, or the head's input, are multiplied with as by a linear.
    """
    table.__class__ = TurnedEmbedding if isinstance(table, nn.Embedding) else TurnedHead
    table.turn = Turn(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    table.turn.weight = nn.Parameter(matrix, requires_grad=False)


def turn_table(model: Any) -> None:
    """Make room in a model without weights for those of a turned table."""
    width = model.config.get_text_config().hidden_size
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        turned(table, torch.empty(width, width, device="meta"))


def is_turned(names: Any) -> bool:
    """Whether tensors of these names are those of a model with a turned table."""
    return any(name.endswith(".turn.weight") for name in names)
