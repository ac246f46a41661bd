"""The shape of what torchao's operators give is computed once per kind of their arguments. Worth 7 %.

Those of torchao 0.18.0 have no rule of their own for shapes: tracing runs the dozen operators that they are made of. To
go when they get one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from et_pipeline.upstream.descriptions import Descriptions, UnknownError


@contextmanager
def remembered_kernels() -> Iterator[None]:
    """Within the context; see above."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.export import exported_program

    descriptions = Descriptions()
    blueprints: dict[Any, Any] = {}
    find = exported_program._get_decomp_for_cia

    def blueprint(tensor: Any) -> Callable[[], Any]:
        size, stride = tuple(tensor.shape), tensor.stride()
        dtype, device = tensor.dtype, tensor.device
        return lambda: torch.empty_strided(size, stride, dtype=dtype, device=device)

    def kernel_for(op: Any) -> Any:
        kernel = find(op)
        if op.namespace != "torchao":
            return kernel

        def remembered(*args: Any, **kwargs: Any) -> Any:
            try:
                inside = any(type(each) is FakeTensor and each.fake_mode.in_kernel_invocation for each in args)
                key = op, inside, descriptions.of(args), descriptions.of(kwargs)
            except UnknownError:
                return kernel(*args, **kwargs)
            if key not in blueprints:
                result = kernel(*args, **kwargs)
                leaves = result if isinstance(result, tuple) else (result,)
                if all((leaf.is_meta if inside else type(leaf) is FakeTensor) for leaf in leaves):
                    blueprints[key] = isinstance(result, tuple), tuple(map(blueprint, leaves))
                return result
            several, makers = blueprints[key]
            made = tuple(make() for make in makers)  # tracers tell tensors apart by identity: each needs its own
            return made if several else made[0]

        return remembered

    with mock.patch.object(exported_program, "_get_decomp_for_cia", kernel_for):
        yield
