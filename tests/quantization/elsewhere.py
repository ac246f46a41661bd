"""A device that this machine has not: tensors lie on it, are computed on the CPU, and do not mix with others.

It shows that code would run on a GPU, not that it runs well on one. It is called a second CPU, for PyTorch asks that
name for no driver.
"""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cpu", 1)
CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(torch.Tensor):
    """A tensor on it."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    leaves = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in leaves if isinstance(each, Elsewhere)]
    if func not in CROSSING:
        here = [each for each in leaves if not isinstance(each, Elsewhere) and each.dim()]
        if there and here:
            raise RuntimeError(f"{func}: tensors on two devices, of {[tuple(each.shape) for each in leaves]}")
        if there and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError(f"{func}: the generator is on the CPU")
    wanted = kwargs.get("device")
    found = func(
        *tree_map(_inner, args),
        **{name: _inner(each) for name, each in kwargs.items() if name != "device"},
        **({"device": torch.device("cpu")} if wanted is not None else {}),
    )
    stays = there[0] if there and func in CROSSING and wanted is None else None
    lies_there = wanted == DEVICE if wanted is not None else bool(there) if func not in CROSSING else stays is not None
    if func is torch.ops.aten.copy_.default:
        return args[0]
    wrappers = {id(each.inner): each for each in there}
    return tree_map(lambda each: _wrapped(each, wrappers) if lies_there else each, found)


def _inner(each):
    return each.inner if isinstance(each, Elsewhere) else each


def _wrapped(each, wrappers):
    if not isinstance(each, torch.Tensor):
        return each
    return wrappers.get(id(each)) if id(each) in wrappers else Elsewhere(each)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if any(type(each) not in (torch.Tensor, torch.nn.Parameter, Elsewhere) for each in leaves):
            return NotImplemented  # torchao's own tensors take themselves apart
        return compute(func, args, kwargs or {})


@contextmanager
def elsewhere(device=DEVICE):
    """Let layers be computed there; or on the CPU, with operators taken apart in the same way."""
    kept = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `.data =` would lose what is inside
    try:
        with mock.patch("et_pipeline.quantization.walk.processor", return_value=device), _Mode():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(kept)
