"""One linear of a checkpoint as several, so that each is quantized and computed by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


class FusedLinear(nn.Module):
    """Linears of one input, their outputs side by side: what calls the one linear does not see a difference.

    The family's code slices the result apart again; `rewrites.clean_graph` takes both out of an exported program.
    """

    def __init__(self, parts: dict[str, int], fused: nn.Linear) -> None:
        """Make empty parts.

        Args:
            parts: name and outputs of each part, in the order of the rows of `fused`.
            fused: what they replace; its weights are not read.
        """
        super().__init__()
        if sum(parts.values()) != fused.out_features:
            raise ValueError(f"parts {parts} do not make up {fused.out_features} outputs")
        for name, size in parts.items():
            part = nn.Linear(fused.in_features, size, fused.bias is not None, fused.weight.device, fused.weight.dtype)
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All outputs as of one linear."""
        return torch.cat([part(x) for part in self.children()], -1)


def fused_rows(model: nn.Module) -> Iterator[tuple[str, str, int, int]]:
    """List the parts of every fused linear: (tensor's name, the checkpoint's tensor, first row, row after the last)."""
    for name, module in model.named_modules():
        if not isinstance(module, FusedLinear):
            continue
        start = 0
        for part, linear in module.named_children():
            assert isinstance(linear, nn.Linear)
            for own, _ in linear.named_parameters(recurse=False):
                yield f"{name}.{part}.{own}", f"{name}.{own}", start, start + linear.out_features
            start += linear.out_features
