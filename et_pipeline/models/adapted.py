"""Linears with room for an adapter, which is put into the program after it was made.

An adapter is LoRA's low-rank product beside a linear's own: y = W x + B A x (Hu et al. 2021, arXiv:2106.09685), with
the scaling multiplied into B. A and B stay float32 and are no constants of the delegate, so that they can be exchanged
in a loaded program (see `runtime.adapters`); zeros are no adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from et_pipeline import gemma

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DOWN, UP = "lora_a", "lora_b"


def make_adaptable(model: PreTrainedModel, rank: int) -> None:
    """Give each linear but the output head an adapter of zeros, in place: `lora_a` [rank, in] and `lora_b` [out, rank].

    AltUp's coefficients (Gemma 3n) get none: they are read beside their linears too, where it would be passed over.

    Args:
        model: a causal LM, quantized or not.
        rank: the largest that an adapter can have; a smaller one is filled up with zeros.
    """
    head = model.get_output_embeddings()
    for own, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and linear is not head and not gemma.stays_float(own):
            for name, shape in ((DOWN, (rank, linear.in_features)), (UP, (linear.out_features, rank))):
                linear.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
            linear.register_forward_hook(_add_adapter)


def _add_adapter(linear: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
    return out + functional.linear(functional.linear(inputs[0], linear.lora_a), linear.lora_b)


def is_adapter(name: str) -> bool:
    """Whether a parameter, or its node in a graph, is an adapter's."""
    return name.endswith((DOWN, UP))
