"""What follows an encoder: how one vector is made of the tokens'."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Mode = Literal["mean", "cls", "lasttoken"]
Activation = Literal["identity", "tanh", "relu", "gelu", "sigmoid", "silu"]


class Dense(BaseModel):
    """A linear layer over the pooled vector, with what bends its result.

    Attributes:
        folder: where in the checkpoint its weights are.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    inputs: int
    outputs: int
    bias: bool = True
    activation: Activation = "tanh"  # sentence-transformers' own choice where a file says nothing


class Pooling(BaseModel):
    """What follows the encoder.

    Attributes:
        mode: the mean of the tokens' vectors, or the first or the last token's alone.
        dense: layers that come then.
        normalised: the result is given length 1.
    """

    model_config = ConfigDict(frozen=True)

    mode: Mode = "mean"
    dense: tuple[Dense, ...] = ()
    normalised: bool = True

    def dimension(self, hidden_size: int) -> int:
        """Length of the vector that is made of tokens' vectors of `hidden_size` numbers."""
        return self.dense[-1].outputs if self.dense else hidden_size
