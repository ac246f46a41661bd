"""The settings: one class per config group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator
from pydantic_core import PydanticCustomError

from et_pipeline import host
from et_pipeline.errors import UserError
from et_pipeline.settings.words import Named

Scheme = Literal["fp32", "8da4w", "8da8w", "int4_weight_only", "int8_weight_only", "16a4w", "16a8w", "8a8w", "fp16"]
Mapping = Literal["symmetric", "symmetric_no_clipping_error", "asymmetric"]
Algorithm = Literal["rtn", "hqq", "gptq"]
Transform = Literal["none", "awq", "smoothquant", "rotation"]
KvCache = Literal["fp32", "fp16", "int8"]
StageName = Literal["acquire", "quantize", "export", "lower", "verify", "measure", "bundle"]
Metric = Literal["size", "kl", "top1", "perplexity", "accuracy", "prefill", "decode"]

OWN = "own"  # of calibration: the model's own answers
RANDOM = "random"  # of a model: made-up weights in its shape


class Frozen(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Sentence(Frozen):
    """What sentence-transformers' files say, for a forecast and for random weights; a checkpoint has them itself."""

    pooling: Literal["mean", "cls", "lasttoken"] = "mean"
    dense: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="outputs of the linear layers behind the pooling, which have no bias and do not bend"
    )


class Checkpoint(Frozen):
    """Where the original weights come from."""

    source: Named = Field(description="builtin:<name>, a folder as of Hugging Face, a hub id, a .gguf file, or random")
    revision: Named | None = Field(default=None, description="hub revision: a branch, tag or commit")
    adapter: Named | None = Field(
        default=None,
        description="a LoRA adapter for that model, merged into it: peft's folder, a hub id, or a .gguf file",
    )
    architecture: dict[str, Any] | None = Field(
        default=None, description="the source's config.json: with it, plan and source=random need no download"
    )
    sentence: Sentence | None = Field(
        default=None, description="of an embedding: likewise what is said of its pooling beside that file"
    )


class ExportForm(Frozen):
    """The shape of the exported program."""

    max_context: int = Field(ge=1, description="KV cache length, in tokens; of an embedding the longest text")
    prefill_chunk: int = Field(ge=1, description="most tokens that one forward call takes")
    kv_cache: KvCache = Field(default="fp32", description="what the KV cache stores; attention computes in fp32")
    adapter_rank: int = Field(
        default=0, ge=0, description="largest rank of the adapters (LoRA) that the loaded program takes; 0: takes none"
    )


class Model(Checkpoint, ExportForm):
    """What is deployed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="part of the bundle's name")
    task: Literal["text-generation", "embedding"] = Field(
        default="text-generation", description="whether it answers, or embeds texts"
    )
    prompts: dict[str, str] | None = Field(
        default=None, description="of an embedding: what goes before a text, by its use, beside what its files say"
    )
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="of an embedding: shorter lengths it was trained for (Matryoshka); else the files' own"
    )

    @property
    def checkpoint(self) -> Checkpoint:
        """The part that `acquire` reads."""
        return Checkpoint(**self.model_dump(include=set(Checkpoint.model_fields)))

    @property
    def form(self) -> ExportForm:
        """The part that `export` reads."""
        return ExportForm(**{name: getattr(self, name) for name in ExportForm.model_fields})


class Samples(Frozen):
    """Text that the model itself is to write."""

    part: Literal["calibration", "evidence", "training"]
    sequences: int = Field(ge=1)
    length: int = Field(ge=1, description="most tokens of an answer")


class LearnedText(Frozen):
    """Text that a model learns from."""

    source: Named = Field(
        description="own: what the original itself writes, to prompts and without; or a text as of "
        "recipe.calibration.source"
    )
    sequences: int = Field(ge=8, description="how many")
    length: int = Field(ge=8, description="tokens of one, at the most; of own ones after the prompt")


class Training(Frozen):
    """How long and how fast a model learns."""

    steps: int = Field(ge=1, description="updates of the weights")
    sequences: int = Field(ge=1, description="texts of one update")
    learning_rate: float = Field(gt=0, description="the highest; it rises at first and falls along half a cosine")


class Distillation(Training):
    """How a model learns from another one."""

    temperature: float = Field(
        gt=0, description="divides the logits of both: the higher, the more counts what the teacher holds less likely"
    )


class Prune(Frozen):
    """What to cut of a model, and how much."""

    by: Literal["prune_depth", "prune_width"]
    size: float = Field(gt=0, lt=1, description="parameters that are left, as a share of all")


def _share(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "device" and not (number and 0 < value < 1):
        raise PydanticCustomError("share", "expected a share between 0 and 1, or device")
    return value


class Adapt(Frozen):
    """What is done to the model before it is quantized, in this order."""

    merge_lora: bool = Field(description="merge model.adapter, which happens also when it is given alone")
    prune_depth: bool = Field(description="drop layers")
    prune_width: bool = Field(description="cut channels of the feed-forward layers, then groups of heads")
    distill: bool = Field(description="learn the original's answers")
    qat: bool = Field(description="train the 4-bit integers that the recipe has chosen on the original's answers")
    size: Annotated[
        float | Literal["device"], PlainValidator(_share, json_schema_input_type=float | Literal["device"])
    ] = Field(
        description="parameters that pruning leaves, as a share of all; each of two kinds takes its root. device: as "
        "many as fit the device, by the forecast"
    )
    teacher: Named | None = Field(
        description="a folder or hub id with the same vocabulary to distil from; null: the model before it was pruned"
    )
    text: LearnedText
    distillation: Distillation
    qat_training: Training = Field(description="likewise; its learning rate is in tens of steps of the integers")

    @property
    def prunes(self) -> list[Literal["prune_depth", "prune_width"]]:
        """The kinds of pruning, in order."""
        kinds: tuple[Literal["prune_depth", "prune_width"], ...] = ("prune_depth", "prune_width")
        return [name for name in kinds if getattr(self, name)]

    @property
    def share(self) -> float:
        """What each kind of pruning leaves, once the size is known."""
        assert self.size != "device"
        return float(self.size ** (1 / max(1, len(self.prunes))))


class Calibration(Frozen):
    """Text that shows the activations, for schemes that fix their ranges and algorithms that round by them."""

    source: Named = Field(
        description="own: the model's own answers to prompts in many languages; builtin:tiny_assistant, a text file, "
        "a folder of .txt and .md files, or hub:<data set>:<config>:<split>; each paragraph and each row is a text of "
        "its own"
    )
    tokens: int = Field(ge=16, description="how many tokens of it are fed")


class Quantization(Frozen):
    """How weights and activations are quantized. `group_size` 0 means one scale per output channel."""

    scheme: Scheme = Field(
        description="bits of weights and activations: 8da4w has 4-bit weights and activations rounded to 8 bits as "
        "they come, 16a4w activations of 16 bits in ranges from calibration"
    )
    group_size: int = Field(ge=0, description="weights that share a scale; 0: all of an output channel")
    mapping: Mapping = Field(description="how a group's range becomes integers; asymmetric has zero points")
    embedding_bits: Literal[4, 8, 32] = Field(description="of a weight of the embedding table")
    embedding_group_size: int = Field(ge=0, description="likewise; 0: all of a token")
    algorithm: Algorithm = Field(
        default="rtn", description="how linears are rounded: rtn (to the nearest step), hqq (scale search), gptq"
    )
    transform: Transform = Field(
        default="none",
        description="what is done to the weights before, which leaves the model's answers as they are: awq and "
        "smoothquant scale the inputs of linears, rotation turns them",
    )
    mixed_bits: float | None = Field(
        default=None, gt=4, le=8, description="mean bits per weight; the linears that 4 bits hurt most get 8"
    )
    calibration: Calibration | None = Field(default=None, description="null for schemes and algorithms without")

    @property
    def calibrated(self) -> bool:
        """Whether weights are quantized by what flows through the model."""
        return self.algorithm == "gptq" or self.transform in ("awq", "smoothquant") or self.mixed_bits is not None


class Gate(Frozen):
    """Thresholds that a bundle must pass. `quantized` and `original` are eager models, which the .pte is compared with.

    The last two are for embeddings, and of the others `min_cosine_quantized` alone.
    """

    min_cosine_quantized: float = Field(ge=0, le=1, description="of the logits, mean over tokens: is the export right?")
    min_top1_quantized: float = Field(ge=0, le=1, description="share of tokens with the same likeliest next one")
    max_kl_original: float = Field(
        ge=0, description="mean KL divergence in nats per token, upper end of its interval: is the quantization good?"
    )
    max_perplexity_ratio: float = Field(ge=1, description="of the program to the original, likewise")
    max_task_drop: float = Field(ge=0, le=100, description="points of task accuracy, per task")
    min_cosine_original: float = Field(default=0.9, ge=0, le=1, description="of a text's embedding, worst text")
    min_rank_original: float = Field(
        default=0.9, ge=-1, le=1, description="Spearman's rank correlation of the similarities of pairs of texts"
    )


class Recipe(Quantization):
    """A named quantization with its gate."""

    name: str = Field(description="part of the bundle's name")
    gate: Gate
    prefer: Literal["size", "speed", "quality"] | None = Field(
        default=None, description="of recipe=auto: look for the smallest, fastest or best recipe that passes the gate"
    )

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

    name: str = Field(description="as its maker sells it")
    soc: str = Field(description="its chip")
    ram_gb: float = Field(gt=0, description="all of its memory")
    app_memory_limit_gb: float = Field(gt=0, description="what one app may take of it")
    memory_bandwidth_gb_s: float = Field(gt=0, description="of the memory chips, as their standard defines it")
    prefill_gops: float = Field(gt=0, description="10^9 int8 operations per second that reading a prompt reaches")
    core_ghz: float | None = Field(
        default=None, gt=0, description="clocks of its fast cores, added up; null: memory alone decides decode"
    )
    sources: dict[str, str] = Field(description="where each figure comes from, by its key")


class UseCase(Frozen):
    """One prompt template of the bundle: what the user types goes into `{text}`, choices into their own fields."""

    title: str = Field(description="what the app shows")
    template: str = Field(description="the user's message, with {text} and a field per choice")
    max_new_tokens: int = Field(ge=1, description="the longest answer")
    choices: dict[str, tuple[str, ...]] = Field(default={}, description="options to choose from, by field")
    disclaimer: str | None = Field(default=None, description="shown with every answer")


class Task(Frozen):
    """What the bundle is for, and what its answers are scored on."""

    name: str = Field(description="what the group is called")
    system_prompt: str | None = Field(default=None, description="what a chat begins with")
    evaluation: Named | None = Field(
        default=None, description="builtin:<name> or a JSONL file of {task, messages, answer} items"
    )
    use_cases: dict[str, UseCase] = Field(description="by name")


class Amount(Frozen):
    """How much evidence `verify` gathers."""

    sequences: int = Field(
        ge=1, description="most answers of the model's own on which logits are compared, a third of them at first"
    )
    items_per_task: int = Field(ge=0, description="held-out items scored per task; 0 scores none")
    text_tokens: int = Field(ge=2, description="tokens of `text` that are scored, each by a call of the program")


class Evidence(Amount):
    """The same, and a text of the user's."""

    seconds: float = Field(ge=0, description="after that no more sequences are taken, though figures are undecided")

    text: Named | None = Field(
        description="text to measure perplexity on: a source as of recipe.calibration; null: none"
    )
    window: int = Field(ge=2, description="most tokens that the model sees of it at once")
    stride: int = Field(ge=1, description="tokens between the starts of two windows, each scored once")


class Verify(Evidence):
    """The same, and what is enough where a token takes a thousand times as long: on simulators, reference kernels."""

    slow: Amount = Field(description="at most this on such backends")

    def evidence(self, slow: bool) -> Evidence:
        """How much to gather on a slow or an ordinary backend."""
        given = self.model_dump(exclude={"slow"})
        if slow:
            given |= {name: min(given[name], most) for name, most in self.slow.model_dump().items()}
        return Evidence(**given)


class Measure(Frozen):
    """How speed is measured on this host."""

    prompt_tokens: int = Field(ge=2, description="length of the prompt, or of the text that is embedded")
    decode_tokens: int = Field(ge=2, description="length of the answer")
    rounds: int = Field(ge=1, description="how often; the manifest has percentiles")
    threads: int = Field(ge=1, description="that compute")


class Sweep(Frozen):
    """How the jobs of a sweep share a machine, and what a search over them weighs."""

    memory_gb: float | None = Field(
        default=None, gt=0, description="most memory of the stages that run at once on one machine; null: no limit"
    )
    metrics: tuple[Metric, ...] = Field(
        min_length=1,
        description="what hydra/sweeper=optuna weighs: size, kl, top1, perplexity, accuracy, prefill, decode",
    )


class Paths(Frozen):
    """Where files live; never inside the package."""

    cache: Annotated[Path, Field(strict=False, description="the stages' results")]
    bundles: Annotated[Path, Field(strict=False, description="a folder per bundle")]

    @field_validator("cache", "bundles", mode="before")
    @classmethod
    def _somewhere(cls, given: object) -> object:
        if given == "":  # of a variable that is not set; the folder here would be filled
            raise PydanticCustomError("path", "input should name a folder; . is the one here")
        try:
            host.expanded(Path(str(given)))
        except UserError as error:
            raise PydanticCustomError("path", "{why}", {"why": str(error)}) from error
        return given


class Settings(Frozen):
    """A whole run."""

    mode: Literal["run", "plan"] = Field(description="make a bundle, or forecast it")
    until: StageName = Field(description="stop after this stage")
    format: Literal["table", "json"] = Field(description="json: one document on standard output")
    plot: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="with mode=plan: an .svg file for size and speed of every recipe"
    )
    seed: int = Field(description="of every random generator")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=150, description="the bundle's folder")
    model: Model
    adapt: Adapt
    recipe: Recipe
    backend: Backend
    device: Device
    task: Task
    verify: Verify
    measure: Measure
    sweep: Sweep
    paths: Paths
