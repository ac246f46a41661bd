"""The stages of a run: what each needs, the settings it reads and the libraries it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        resumes: whether it gets a folder, `work`, that survives a kill, and goes on from what it finds there.
    """

    name: str
    needs: tuple[str, ...]
    config: Mapping[str, BaseModel]
    libraries: tuple[str, ...]
    host: bool = False
    texts: tuple[str, ...] = ()
    does: str = ""
    resumes: bool = False

    @property
    def module(self) -> str:
        """Where its `run` lives."""
        return f"et_pipeline.stages.{self.does or self.name}"


_QUANTIZE_LIBRARIES = ("torch", "torchao", "transformers")
UNADAPTED = ("unadapted", "unadapted_answers")  # the model before it was pruned or trained, and its own answers
TRAINING_LIBRARIES = ("torch", "torchao", "transformers", "accelerate")
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
    texts = [drawn(part, asked) for part, asked in samples(settings, settings.adapt.qat).items()]
    calibration, answers, learned = (
        [stage for stage in texts if stage.name == name] for name in ("calibration", "evidence", "training")
    )

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
        quantize = Stage("quantize", needs, quantization, _QUANTIZE_LIBRARIES, texts=("calibration",))
        making = (
            *measured,
            *(_trained(settings, quantize, learned) if settings.adapt.qat else (quantize,)),
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
    if (settings.adapt.prunes or settings.adapt.distill) and backend.timed:
        made += (Stage("distance", ("acquire", "quantize", "lower"), export, _EXPORT_LIBRARIES, texts=UNADAPTED),)
    return (*made, measure) if backend.timed else made


def _measured(settings: Settings, needs: tuple[str, ...]) -> Stage:
    """The stage that measures what rounding each linear costs, which is the same however many bits are to be spent."""
    config = {"quantization": settings.recipe.quantization.model_copy(update={"mixed_bits": None})}
    return Stage("sensitivity", needs, config, _QUANTIZE_LIBRARIES, texts=("calibration",))


def _trained(settings: Settings, quantize: Stage, learned: Sequence[Stage]) -> tuple[Stage, ...]:
    """Quantization, and training of what it has rounded, whose result takes its place."""
    config = {**quantize.config, "training": settings.adapt.qat_training, "text": settings.adapt.text}
    needs = ("acquire", "round", *(each.name for each in learned))
    return (
        *learned,
        replace(quantize, name="round", does="quantize"),
        Stage("quantize", needs, config, TRAINING_LIBRARIES, texts=("training_text",), does="qat", resumes=True),
    )


def drawn(part: str, asked: Samples) -> Stage:
    """The stage that lets the model write text."""
    return Stage(part, ("acquire",), {"samples": asked}, ("torch", "transformers"), does="sample")


def trial(settings: Settings, kind: forms.Kind) -> tuple[Stage, ...]:
    """The stages that try a recipe without exporting anything."""
    names = ("calibration", "sensitivity", "quantize", "evidence")
    untrained = settings.model_copy(update={"adapt": settings.adapt.model_copy(update={"qat": False})})
    made = [stage for stage in stages(untrained, kind) if stage.name in names]
    needs = ("acquire", "quantize", "evidence")
    config = {"kind": kind, "quantization": settings.recipe.quantization, "form": settings.model.form}
    return (*made, Stage("trial", needs, config, _QUANTIZE_LIBRARIES))


def samples(settings: Settings, learns: bool) -> dict[str, Samples]:
    """The text that a model which answers is to write itself, by what it is for; `learns`: also to learn from."""
    if settings.model.task == "embedding":
        return {}
    found = {"evidence": Samples(part="evidence", sequences=evidence(settings).sequences, length=ANSWER)}
    text = settings.adapt.text
    if learns and text.source == OWN:
        found["training"] = Samples(part="training", sequences=text.sequences, length=text.length)
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
