"""What follows an encoder: how one vector is made of the tokens'."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Pooling(BaseModel):
    """What follows the encoder.

    Attributes:
        mode: the mean of the tokens' vectors, or the first token's alone.
        normalised: the result is given length 1.
    """

    model_config = ConfigDict(frozen=True)

    mode: Literal["mean", "cls"] = "mean"
    normalised: bool = True
