"""Frozen, validated settings: one class per config group.

Hydra composes `conf/`; `load_settings` turns the result into a `Settings`. Past this module nobody sees a `DictConfig`.
A stage receives only the classes it reads, so a cache key can list exactly what a result depends on.
"""

from __future__ import annotations

import difflib
import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from et_pipeline.errors import UserError

Scheme = Literal["fp32", "8da4w", "8da8w", "int4_weight_only", "int8_weight_only", "16a4w", "16a8w", "8a8w", "fp16"]
Mapping = Literal["symmetric", "symmetric_no_clipping_error", "asymmetric"]
Algorithm = Literal["rtn", "hqq", "gptq"]
Transform = Literal["none", "awq", "smoothquant", "rotation"]
KvCache = Literal["fp32", "fp16", "int8"]
StageName = Literal["acquire", "quantize", "export", "lower", "verify", "measure", "bundle"]


class Frozen(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Checkpoint(Frozen):
    """Where the original weights come from."""

    source: str = Field(
        description="builtin:<name>, a local folder in Hugging Face layout, a hub id, a .gguf file, or random"
    )
    revision: str | None = Field(default=None, description="hub revision: a branch, tag or commit")
    architecture: dict[str, Any] | None = Field(
        default=None, description="the source's config.json: with it, plan and source=random need no download"
    )


class ExportForm(Frozen):
    """The shape of the exported program."""

    max_context: int = Field(ge=1, description="KV cache length, in tokens; of an embedding the longest text")
    prefill_chunk: int = Field(ge=1, description="most tokens that one forward call takes")
    kv_cache: KvCache = Field(default="fp32", description="what the KV cache stores; attention computes in fp32")


class Model(Checkpoint, ExportForm):
    """What is deployed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Literal["text-generation", "embedding"] = "text-generation"

    @property
    def checkpoint(self) -> Checkpoint:
        """The part that `acquire` reads."""
        return Checkpoint(source=self.source, revision=self.revision, architecture=self.architecture)

    @property
    def form(self) -> ExportForm:
        """The part that `export` reads."""
        return ExportForm(max_context=self.max_context, prefill_chunk=self.prefill_chunk, kv_cache=self.kv_cache)


class Calibration(Frozen):
    """Text that shows the activations, for schemes that fix their ranges and algorithms that round by them."""

    source: str = Field(
        description="builtin:tiny_assistant, a text file, a folder of .txt and .md files, or "
        "hub:<data set>:<config>:<split>; each paragraph and each row is a text of its own"
    )
    tokens: int = Field(ge=16, description="how many tokens of it are fed")


class Quantization(Frozen):
    """How weights and activations are quantized. `group_size` 0 means one scale per output channel."""

    scheme: Scheme
    group_size: int = Field(ge=0)
    mapping: Mapping
    embedding_bits: Literal[4, 8, 32]
    embedding_group_size: int = Field(ge=0)
    algorithm: Algorithm = Field(
        default="rtn", description="how linears are rounded: rtn (to the nearest step), hqq (scale search), gptq"
    )
    transform: Transform = Field(
        default="none",
        description="what is done to the weights before, which leaves the model's answers as they are: awq and "
        "smoothquant scale the inputs of linears, rotation turns them",
    )
    mixed_bits: float | None = Field(
        default=None, gt=4, lt=8, description="mean bits per weight; the linears that 4 bits hurt most get 8"
    )
    calibration: Calibration | None = None

    @property
    def calibrated(self) -> bool:
        """Whether weights are quantized by what flows through the model."""
        return self.algorithm == "gptq" or self.transform in ("awq", "smoothquant") or self.mixed_bits is not None


class Gate(Frozen):
    """Thresholds that a bundle must pass. `quantized` and `original` are eager models, which the .pte is compared with.

    The last two are for embeddings, and of the others `min_cosine_quantized` alone.
    """

    min_cosine_quantized: float = Field(ge=0, le=1)
    min_top1_quantized: float = Field(ge=0, le=1)
    min_top1_original: float = Field(ge=0, le=1)
    max_kl_original: float = Field(ge=0, description="nats per token")
    max_task_drop: float = Field(ge=0, le=100, description="points of task accuracy, per task")
    min_cosine_original: float = Field(default=0.9, ge=0, le=1, description="of a text's embedding, worst text")
    min_rank_original: float = Field(
        default=0.9, ge=-1, le=1, description="Spearman's rank correlation of the similarities of pairs of texts"
    )


class Recipe(Quantization):
    """A named quantization with its gate."""

    name: str
    gate: Gate

    @property
    def quantization(self) -> Quantization:
        """The part that `quantize` reads."""
        return Quantization(**self.model_dump(include=set(Quantization.model_fields)))


class Backend(Frozen):
    """What runs the graph."""

    name: str = Field(description="xnnpack, qnn, coreml, vulkan, portable, or one that a plug-in adds")
    soc: str | None = Field(default=None, description="the chip that the program is compiled for, such as SM8650")
    also: tuple[str, ...] = Field(default=(), description="other chips with the same NPU, which run it too")
    prefill: bool = Field(
        default=False, description="of qnn: take a prompt in chunks of model.prefill_chunk tokens, not one by one"
    )
    external_weights: bool = Field(default=False, description="write the weights beside the program, as .ptd")

    @property
    def socs(self) -> tuple[str, ...]:
        """All chips that the program is for; empty: any."""
        return () if self.soc is None else (self.soc, *self.also)


class Device(Frozen):
    """A phone. Each figure has its source in `sources`."""

    name: str
    soc: str
    ram_gb: float = Field(gt=0)
    app_memory_limit_gb: float = Field(gt=0)
    memory_bandwidth_gb_s: float = Field(gt=0, description="of the memory chips, as their standard defines it")
    prefill_gops: float = Field(gt=0, description="10^9 int8 operations per second that reading a prompt reaches")
    sources: dict[str, str]


class UseCase(Frozen):
    """One prompt template of the bundle: what the user types goes into `{text}`, choices into their own fields."""

    title: str
    template: str
    max_new_tokens: int = Field(ge=1)
    choices: dict[str, tuple[str, ...]] = {}
    disclaimer: str | None = None


class Task(Frozen):
    """What the bundle is for, and what its answers are scored on."""

    name: str
    system_prompt: str | None = None
    evaluation: str | None = Field(
        default=None, description="builtin:<name> or a JSONL file of {task, messages, answer} items"
    )
    use_cases: dict[str, UseCase]


class Amount(Frozen):
    """How much evidence `verify` gathers."""

    sequences: int = Field(
        ge=1, description="token sequences on which logits are compared; fewer where these would take over 1 GB"
    )
    items_per_task: int = Field(ge=0, description="held-out items scored per task; 0 scores none")
    text_tokens: int = Field(ge=2, description="tokens of `text` that are scored, each by a call of the program")


class Evidence(Amount):
    """The same, and a text of the user's."""

    text: str | None = Field(description="text to measure perplexity on: a source as of recipe.calibration; null: none")
    window: int = Field(ge=2, description="most tokens that the model sees of it at once")
    stride: int = Field(ge=1, description="tokens between the starts of two windows, each scored once")


class Verify(Evidence):
    """The same, and what is enough where a token takes a thousand times as long: on simulators, reference kernels."""

    slow: Amount

    def evidence(self, slow: bool) -> Evidence:
        """How much to gather on a slow or an ordinary backend."""
        given = self.model_dump(exclude={"slow"})
        if slow:
            given |= {name: min(given[name], most) for name, most in self.slow.model_dump().items()}
        return Evidence(**given)


class Measure(Frozen):
    """How speed is measured on this host."""

    prompt_tokens: int = Field(ge=2)
    decode_tokens: int = Field(ge=2)
    rounds: int = Field(ge=1)
    threads: int = Field(ge=1)


class Paths(Frozen):
    """Where files live; never inside the package."""

    cache: Annotated[Path, Field(strict=False)]
    bundles: Annotated[Path, Field(strict=False)]


class Settings(Frozen):
    """A whole run."""

    mode: Literal["run", "plan"]
    until: StageName
    format: Literal["table", "json"]
    plot: Annotated[Path, Field(strict=False)] | None = None
    seed: int
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the bundle's folder")
    model: Model
    recipe: Recipe
    backend: Backend
    device: Device
    task: Task
    verify: Verify
    measure: Measure
    paths: Paths


def load_settings(composed: Any) -> Settings:
    """Turn what Hydra composed into frozen settings.

    Args:
        composed: the job's `DictConfig`, without Hydra's own node.

    Raises:
        UserError: one sentence naming the first key that is missing, unknown or of the wrong kind.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value; give one, for example {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'} cannot be resolved: {first_line(error)}") from error
    try:
        # By way of JSON, where a list is a tuple, and strict typing still holds.
        settings = Settings.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise UserError(_sentence(error)) from error
    _check_combination(settings)
    return settings


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key, given = ".".join(map(str, first["loc"])), json.dumps(first["input"], default=str)
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        return f"{key} is not a setting{closest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={given} is not valid: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = Settings
    for part in location:
        kind = kind.model_fields[part].annotation if part in getattr(kind, "model_fields", {}) else None
    return list(getattr(kind, "model_fields", {}))


def setting_names(kind: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """All keys of the settings, dotted."""
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
    return names


def closest(word: str, known: Iterable[str]) -> str:
    """What exists, or of many things the one that is spelt most like `word`: the end of a sentence."""
    names = sorted(known)
    if 0 < len(names) <= 16:
        return f"; choose from {', '.join(names)}"
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _check_combination(settings: Settings) -> None:
    """Refuse what can be known to fail before any work is done."""
    model, measure = settings.model, settings.measure
    if model.task == "embedding" and model.kv_cache != "fp32":
        raise UserError(f"model.kv_cache={model.kv_cache} is of no use to {model.name}, which has none; use fp32")
    if model.task == "embedding":
        _check_embedding(settings)
        return
    if model.prefill_chunk > model.max_context:
        raise UserError(
            f"model.prefill_chunk={model.prefill_chunk} exceeds model.max_context={model.max_context}; "
            f"choose at most {model.max_context}"
        )
    if measure.prompt_tokens + measure.decode_tokens > model.max_context:
        raise UserError(
            f"measure.prompt_tokens={measure.prompt_tokens} plus measure.decode_tokens={measure.decode_tokens} "
            f"do not fit into model.max_context={model.max_context}; lower one of them or raise the context"
        )
    _check_text(settings)
    for name, use_case in settings.task.use_cases.items():
        try:
            given = {field for _, field, _, _ in string.Formatter().parse(use_case.template) if field is not None}
        except ValueError as error:
            raise UserError(f"task.use_cases.{name}.template={use_case.template!r} is malformed: {error}") from error
        wanted = {"text", *use_case.choices}
        if given != wanted:
            raise UserError(
                f"task.use_cases.{name}.template={use_case.template!r} must hold exactly the fields "
                f"{', '.join('{' + field + '}' for field in sorted(wanted))}"
            )


def _check_text(settings: Settings) -> None:
    """Refuse windows over a text that do not fit the model or leave tokens out."""
    model, verify = settings.model, settings.verify
    if verify.text is None:
        return
    if verify.window > model.max_context:
        raise UserError(
            f"verify.window={verify.window} exceeds model.max_context={model.max_context}; choose at most "
            f"{model.max_context}"
        )
    if verify.stride >= verify.window:
        raise UserError(
            f"verify.stride={verify.stride} leaves no token of verify.window={verify.window} to begin a window with; "
            f"choose at most {verify.window - 1}"
        )


def _check_embedding(settings: Settings) -> None:
    """Refuse what a model that embeds texts has no use for."""
    model, task, measure = settings.model, settings.task, settings.measure
    if settings.verify.text is not None:
        raise UserError(
            f"verify.text={settings.verify.text} is for models that answer; model.task=embedding predicts no tokens, "
            "so set verify.text=null"
        )
    for key, value in (("use_cases", task.use_cases), ("system_prompt", task.system_prompt)):
        if value:
            raise UserError(
                f"model.task=embedding makes vectors of texts and does not answer, but task.{key} is for a model that "
                "does; choose task=embedding"
            )
    if task.evaluation is not None:
        raise UserError(
            f"task.evaluation={task.evaluation} holds conversations, which model.task=embedding cannot answer; choose "
            "task=embedding"
        )
    if model.prefill_chunk != model.max_context:
        raise UserError(
            f"model.prefill_chunk={model.prefill_chunk} differs from model.max_context={model.max_context}, but "
            f"model.task=embedding takes a text in one call; set model.prefill_chunk={model.max_context}"
        )
    if measure.prompt_tokens > model.max_context:
        raise UserError(
            f"measure.prompt_tokens={measure.prompt_tokens} exceeds model.max_context={model.max_context}, the longest "
            f"text; choose at most {model.max_context}"
        )
