"""The stages of a run: what each needs, the settings it reads and the libraries it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from et_pipeline import forms
from et_pipeline.backends import get_backend
from et_pipeline.settings import Backend, Evidence, Settings


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        needs: earlier stages whose results it reads.
        config: the settings that it reads, by parameter name of its `run`.
        libraries: distributions whose version its result depends on.
        host: whether its result depends on the machine it ran on.
        texts: files besides the checkpoint that it reads, where a run has them; `gguf` is what that was made from.
    """

    name: str
    needs: tuple[str, ...]
    config: Callable[[Settings], dict[str, BaseModel]]
    libraries: tuple[str, ...]
    host: bool = False
    texts: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Where its `run` lives."""
        return f"et_pipeline.stages.{self.name}"


_EXPORT_LIBRARIES = ("torch", "torchao", "transformers", "executorch")
_QUALCOMM = ("onnxruntime-qnn",)


def stages(settings: Settings) -> tuple[Stage, ...]:
    """The heavy stages of a run, in order.

    Most backends take a model that was quantized before it is exported. One with calibration quantizes the exported
    program, because the ranges of activations belong to its operators.
    """
    backend = get_backend(settings.backend.name, settings.backend.soc)

    kind = forms.choose(settings.model.task, settings.backend)

    def quantization(s: Settings) -> dict[str, BaseModel]:
        return {"quantization": s.recipe.quantization}

    def compiled(s: Settings) -> dict[str, BaseModel]:
        return {"kind": kind, "backend": s.backend.model_copy(update={"also": ()})}  # other chips change nothing

    def export(s: Settings) -> dict[str, BaseModel]:
        # No other setting of a backend counts here.
        return {**quantization(s), "kind": kind, "form": s.model.form, "backend": Backend(name=s.backend.name)}

    if backend.calibrated:
        making = (
            Stage("export", ("acquire",), export, _EXPORT_LIBRARIES),
            Stage(
                "quantize",
                ("acquire", "export"),
                lambda s: {**quantization(s), **compiled(s)},
                (*_EXPORT_LIBRARIES, *_QUALCOMM),
                texts=("calibration",),
            ),
            Stage("lower", ("export", "quantize"), compiled, (*_EXPORT_LIBRARIES, *_QUALCOMM)),
        )
    else:
        needs = ("acquire",) if settings.recipe.calibrated else ()  # the chat format of calibration text
        making = (
            Stage("quantize", needs, quantization, ("torch", "torchao", "transformers"), texts=("calibration",)),
            Stage("export", ("acquire", "quantize"), export, _EXPORT_LIBRARIES),
            Stage("lower", ("export",), compiled, _EXPORT_LIBRARIES),
        )
    verify = Stage(
        "verify",
        ("acquire", "quantize", "lower"),
        lambda s: {
            **export(s),
            "task": s.task,
            "verify": evidence(s),
        },
        _EXPORT_LIBRARIES,
        texts=("evaluation", "text", "gguf"),
    )
    measure = Stage(
        "measure", ("acquire", "lower"), lambda s: {"kind": kind, "measure": s.measure}, ("executorch",), host=True
    )
    return (*making, verify, measure) if backend.timed else (*making, verify)


def evidence(settings: Settings) -> Evidence:
    """How much is verified, which where a token takes a second is less."""
    backend = get_backend(settings.backend.name, settings.backend.soc)
    return settings.verify.evidence(slow=backend.can_execute and not backend.timed)
