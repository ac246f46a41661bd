"""The stages of a run: what each needs, the settings it reads and the libraries it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from et_pipeline import forms
from et_pipeline.backends import get_backend
from et_pipeline.settings import OWN, Backend, Calibration, Evidence, Samples, Settings

ANSWER, CALIBRATION_ANSWER = 64, 128  # most tokens of an answer of the model's own


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        needs: earlier stages whose results it reads.
        config: the settings that it reads, by parameter name of its `run`.
        libraries: distributions whose version its result depends on.
        host: whether its result depends on the machine it ran on.
        texts: files besides the checkpoint that it reads, where a run has them; `gguf` is what that was made from.
        does: the step of `et_pipeline.stages` that it is, where that has another name.
    """

    name: str
    needs: tuple[str, ...]
    config: Mapping[str, BaseModel]
    libraries: tuple[str, ...]
    host: bool = False
    texts: tuple[str, ...] = ()
    does: str = ""

    @property
    def module(self) -> str:
        """Where its `run` lives."""
        return f"et_pipeline.stages.{self.does or self.name}"


_QUANTIZE_LIBRARIES = ("torch", "torchao", "transformers")
_EXPORT_LIBRARIES = ("torch", "torchao", "transformers", "executorch")
_QUALCOMM = ("onnxruntime-qnn",)


def stages(settings: Settings, kind: forms.Kind) -> tuple[Stage, ...]:
    """The heavy stages of a run, in order.

    Most backends take a model that was quantized before it is exported. One with calibration quantizes the exported
    program, because the ranges of activations belong to its operators.
    """
    backend = get_backend(settings.backend.name, settings.backend.soc)
    quantization: dict[str, BaseModel] = {"quantization": settings.recipe.quantization}
    # Other chips change nothing.
    compiled: dict[str, BaseModel] = {"kind": kind, "backend": settings.backend.model_copy(update={"also": ()})}
    # No other setting of a backend counts here.
    export = {**quantization, "kind": kind, "form": settings.model.form, "backend": Backend(name=settings.backend.name)}
    drawn = [_drawn(part, asked) for part, asked in _samples(settings).items()]
    calibration, answers = ([stage for stage in drawn if stage.name == name] for name in ("calibration", "evidence"))

    making: tuple[Stage, ...]
    if backend.calibrated:
        making = (
            Stage("export", ("acquire",), export, _EXPORT_LIBRARIES),
            Stage(
                "quantize",
                ("acquire", "export", *(each.name for each in calibration)),
                {**quantization, **compiled},
                (*_EXPORT_LIBRARIES, *_QUALCOMM),
                texts=("calibration",),
            ),
            Stage("lower", ("export", "quantize"), compiled, (*_EXPORT_LIBRARIES, *_QUALCOMM)),
        )
    else:
        needs = ("acquire", *(each.name for each in calibration)) if settings.recipe.calibrated else ()
        measured = (_measured(settings, needs),) if settings.recipe.mixed_bits is not None else ()
        needs += tuple(each.name for each in measured)
        making = (
            *measured,
            Stage("quantize", needs, quantization, _QUANTIZE_LIBRARIES, texts=("calibration",)),
            Stage("export", ("acquire", "quantize"), export, _EXPORT_LIBRARIES),
            Stage("lower", ("export",), compiled, _EXPORT_LIBRARIES),
        )
    verify = Stage(
        "verify",
        ("acquire", "quantize", "lower", *(each.name for each in answers)),
        {**export, "task": settings.task, "verify": evidence(settings), "gate": settings.recipe.gate},
        _EXPORT_LIBRARIES,
        texts=("evaluation", "text", "gguf"),
    )
    measure = Stage(
        "measure", ("acquire", "lower"), {"kind": kind, "measure": settings.measure}, ("executorch",), host=True
    )
    made = (*calibration, *making, *answers, verify)
    return (*made, measure) if backend.timed else made


def _measured(settings: Settings, needs: tuple[str, ...]) -> Stage:
    """The stage that measures what rounding each linear costs, which is the same however many bits are to be spent."""
    config = {"quantization": settings.recipe.quantization.model_copy(update={"mixed_bits": None})}
    return Stage("sensitivity", needs, config, _QUANTIZE_LIBRARIES, texts=("calibration",))


def _drawn(part: str, asked: Samples) -> Stage:
    """The stage that lets the model write text."""
    return Stage(part, ("acquire",), {"samples": asked}, ("torch", "transformers"), does="sample")


def trial(settings: Settings, kind: forms.Kind) -> tuple[Stage, ...]:
    """The stages that try a recipe without exporting anything."""
    names = ("calibration", "sensitivity", "quantize", "evidence")
    made = [stage for stage in stages(settings, kind) if stage.name in names]
    needs = ("acquire", "quantize", "evidence")
    config = {"kind": kind, "quantization": settings.recipe.quantization, "form": settings.model.form}
    return (*made, Stage("trial", needs, config, _QUANTIZE_LIBRARIES))


def _samples(settings: Settings) -> dict[str, Samples]:
    """The text that a model which answers is to write itself, by what it is for."""
    if settings.model.task == "embedding":
        return {}
    found = {"evidence": Samples(part="evidence", sequences=evidence(settings).sequences, length=ANSWER)}
    chosen = calibration_of(settings)
    if chosen is not None and chosen.source == OWN:
        count = -(-chosen.tokens // CALIBRATION_ANSWER)  # what ends early is made up for by the prompts
        found["calibration"] = Samples(part="calibration", sequences=count, length=CALIBRATION_ANSWER)
    return found


def calibration_of(settings: Settings) -> Calibration | None:
    """What the recipe calibrates with, if it does."""
    recipe = settings.recipe
    calibrates = get_backend(settings.backend.name).calibrated or recipe.calibrated or recipe.prefer is not None
    return settings.recipe.calibration if calibrates else None


def evidence(settings: Settings) -> Evidence:
    """How much is verified, which where a token takes a second is less."""
    backend = get_backend(settings.backend.name, settings.backend.soc)
    return settings.verify.evidence(slow=backend.can_execute and not backend.timed)
