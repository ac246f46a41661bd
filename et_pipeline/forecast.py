"""The forecast of size, memory, speed and export cost, from config.json and shapes alone, before anything heavy.

Plain arithmetic, no torch. Where a figure of a formula was measured, its comment says on what; `tests/test_forecast.py`
holds the forecasts against real files and published speeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from et_pipeline import host
from et_pipeline.architecture import Architecture, Shapes, check_context, layer_slots, read_architecture
from et_pipeline.checkpoints import prequantized
from et_pipeline.checkpoints.config import FILE as CONFIG
from et_pipeline.checkpoints.config import put_right
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import INDEX, SINGLE
from et_pipeline.checkpoints.source import config_folder, on_hub
from et_pipeline.errors import UserError
from et_pipeline.settings import Device, ExportForm, KvCache, Model, Quantization, Recipe, Settings
from et_pipeline.states import KeysValues, Recurrent, Shared, States, keys_values, mixed_shape
from et_pipeline.weight_bytes import is_embedding, table_bytes, tensor_bytes, weight_bits

# A .pte beside its weights: operators, delegates' headers, padding, constants such as the rotation matrix. Measured on
# models of one, two and six layers, 8da4w: 35 kB and 16 kB more for each layer, whose widths hardly matter.
PTE_BYTES = 18_500
PTE_BYTES_PER_LAYER = 16_300

RUNTIME_BYTES = 500_000_000  # the app around the program: code, activations, packing buffers, Android's own share
BANDWIDTH_SHARE = 0.55  # of the memory bandwidth that decoding reaches on phones: 0.5-0.6 in published measurements
# A layer costs time even where its weights are few: starting operators, and attention. On two x86 cores SmolLM2-135M
# took 1.2 ms longer for its 30 layers than its bytes at the bandwidth that Llama-3.2-1B reached. Assumed for phones.
LAYER_SECONDS = 40e-6
# The same layer measured with XNNPACK's kernels (2048 x 8192, two threads of x86): int4 with float activations streams
# its weights at 0.6 of the rate of 8da4w, as unpacking costs more than reading.
KERNEL_SHARE = {"int4_weight_only": 0.6}
# What a token makes an arm64 core execute, counted on an emulated Cortex-A76 (docs/results/arm.json): for each weight
# of a linear, on the built-in model; for each layer, and for each number of the cache, on SmolLM2-135M.
WEIGHT_INSTRUCTIONS = {"8da8w": 0.186, "int4_weight_only": 1.02, "int8_weight_only": 0.965, "fp32": 0.384}
WEIGHT_INSTRUCTIONS_4BIT_GROUPS, WEIGHT_INSTRUCTIONS_4BIT_CHANNELS = 0.284, 0.217
LAYER_INSTRUCTIONS = 240_000
# What is not fp32 becomes it at each step, number by number; of each layer new keys and values are rounded.
KV_NUMBER_INSTRUCTIONS = {"fp32": 3.1, "fp16": 3.8, "int8": 4.4}
KV_LAYER_INSTRUCTIONS = {"fp32": 0, "fp16": 16_000, "int8": 90_000}
PER_CYCLE = 2.0  # instructions that a fast core ends: assumed, half of what an A76 can
# Speed over a prompt of 128 tokens in the same measurement, 8da4w in groups being 1: 25.5 ms to 16.0, 15.4, 56, 52, 52.
PREFILL_GROUPS = 1.0
PREFILL_CHANNELS = {"8da4w": 1.6, "8da8w": 1.65, "int4_weight_only": 0.46, "int8_weight_only": 0.49, "fp32": 0.49}

# CPU seconds of quantize, export and lower on one x86 core, fitted to docs/results/forecast.json (the table in
# docs/benchmarks.md). A layer of the weight-only recipes costs less: its graph has no nodes that quantize activations.
EXPORT_SECONDS, EXPORT_SECONDS_PER_LAYER, EXPORT_SECONDS_PER_WEIGHT = 24, 1.5, 8e-9
EXPORT_SECONDS_PER_LAYER_PLAIN, EXPORT_SECONDS_PER_KV_HEAD = 0.95, 0.16  # the latter of each layer
EXPORT_SECONDS_PER_RECURRENT = 3.5  # more, of a layer with such a state: Qwen3.5-0.8B, once, on a busy machine
# Peak of anonymous memory, fitted to the same and to full_size.json. What lowers holds the graph, the program and
# copies of a tensor, if it is no table of per-layer embeddings.
LOWER_BYTES, LOWER_BYTES_PER_LAYER, LOWER_BYTES_PER_KV_HEAD = 460_000_000, 8_000_000, 300_000
LOWER_BYTES_PER_PTE_BYTE, LOWER_BYTES_PER_WEIGHT_OF_LARGEST = 1.09, 0.25
# What quantizes holds the weights that wait to be written and the largest tensor. Within a third only, as the allocator
# keeps more or less of what it was given back.
QUANTIZE_BYTES, QUANTIZE_BYTES_PER_WEIGHT, QUANTIZE_WAITING = 650_000_000, 1.5, 250_000_000


class Plan(BaseModel):
    """What to expect of a model with a recipe on a device. Sizes in bytes, speed in tokens per second.

    Attributes:
        pruned: what pruning leaves, in words; None where nothing is pruned.
        download_bytes: bf16 weights from the hub, fp32 ones of a model that embeds if its config says nothing else; 0
            where the checkpoint is on this machine or random.
        kv_cache_bytes: at the chosen context; `kv_by_context` at others.
        table_bytes: of the program, the tables of per-layer embeddings: they stay in the file, mapped, of which a token
            touches a row.
        resident_bytes: the whole app's memory, without them.
        limit_bytes: of one app on the device.
        roofline_tok_s: what the memory bandwidth allows, if nothing else cost time.
        decode_tok_s: expected at the beginning of a conversation.
        decode_full_tok_s: expected when the context is full, and the cache is read with the weights.
        ttft_s: expected until the first token after a prompt of `prompt_tokens`, or until the embedding of such a text.
        embeds: it makes embeddings, and has no cache and nothing to decode; those figures are 0.
        export_cpu_s: CPU time of quantizing, exporting and lowering on a machine like the one that was measured.
        export_peak_bytes: most anonymous memory of any stage; `host_bytes` is what this machine has, 0 if unknown.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    recipe: str
    device: str
    family: str
    parameters: int
    pruned: str | None = None
    download_bytes: int
    fp16_bytes: int
    pte_bytes: int
    max_context: int
    kv_cache_bytes: int
    kv_by_context: dict[int, int]
    table_bytes: int = 0
    resident_bytes: int
    limit_bytes: int
    ram_bytes: int
    roofline_tok_s: float
    decode_tok_s: float
    decode_full_tok_s: float
    prefill_tok_s: float
    prompt_tokens: int
    ttft_s: float
    export_cpu_s: float
    export_peak_bytes: int
    host_bytes: int
    embeds: bool = False

    @property
    def fits_phone(self) -> bool:
        """Whether the phone has that much memory at all."""
        return self.resident_bytes <= self.ram_bytes

    @property
    def fits(self) -> bool:
        """Whether the app stays under the device's limit per app."""
        return self.fits_phone and self.resident_bytes <= self.limit_bytes

    @property
    def pace(self) -> float:
        """Tokens that it decodes per second, or texts that it embeds."""
        return 1 / self.ttft_s if self.embeds else self.decode_tok_s


def read_model(model: Model) -> Architecture:
    """Read the architecture from the settings, from a folder here, or from the one file config.json of the hub.

    Raises:
        UserError: there is none, it is broken, or the context is longer than the model's.
    """
    known = _known(model)
    check_context(model.max_context, known.max_position)
    return known


def positions(model: Model) -> int:
    """The longest context that the model has, read likewise."""
    return _known(model).max_position


def _known(model: Model) -> Architecture:
    if model.architecture is None:
        return architecture_of(Folder(config_folder(model.checkpoint)), model.task == "embedding")
    dense = () if model.sentence is None else model.sentence.dense
    return read_architecture(*config_of(model), embeds=model.task == "embedding", dense=dense)


def config_of(model: Model) -> tuple[Mapping[str, Any], str]:
    """The content of config.json, and what to call it in a message."""
    if model.architecture is None:
        folder = Folder(config_folder(model.checkpoint))
        return folder.config, str(folder.path / CONFIG)
    where = "model.architecture"
    return put_right(model.architecture, where), where


def architecture_of(folder: Folder, embeds: bool = False) -> Architecture:
    """The architecture of a checkpoint, by its weights' headers where they are here.

    Args:
        folder: the checkpoint.
        embeds: it does, also where no file here says so.

    Raises:
        UserError: a file is missing or broken.
    """
    config, where = folder.config, str(folder.path / CONFIG)
    prequantized.check_method(config, where)
    here = any((folder.path / name).is_file() for name in (INDEX, SINGLE))
    stored = {name: info.shape for name, info in folder.contents.layout.items()} if here else None
    return read_architecture(config, where, stored, embeds or folder.embeds)


def check_groups(known: Architecture, recipe: Quantization) -> None:
    """Refuse groups that do not divide the model's rows.

    Raises:
        UserError: names the first such tensor.
    """
    for name, shape in known.shapes.items():
        embedding = is_embedding(name)
        group = recipe.embedding_group_size if embedding else recipe.group_size
        short = not embedding and shape[-1] <= group  # then a row has one scale
        if len(shape) == 2 and weight_bits(name, recipe) != 32 and group and not short and shape[1] % group:
            key = "recipe.embedding_group_size" if embedding else "recipe.group_size"
            raise UserError(f"{name} has rows of {shape[1]} weights, which {key}={group} does not divide")


def forecast(settings: Settings, known: Architecture, recipe: Recipe, device: Device) -> Plan:
    """Forecast one model with one recipe on one device."""
    model, prompt = settings.model, settings.measure.prompt_tokens
    shapes = exported_shapes(known)
    stored = {name: tensor_bytes(name, shape, recipe) for name, shape in shapes.items()}
    pte = pte_bytes(known, recipe)
    streamed = sum(size for name, size in stored.items() if not is_embedding(name))  # of that, one row is read
    kv = 0 if known.encodes else _kv(known, model, model.max_context)
    bandwidth = device.memory_bandwidth_gb_s * 1e9
    reached = bandwidth * BANDWIDTH_SHARE
    read = streamed / (reached * KERNEL_SHARE.get(recipe.scheme, 1.0)) + known.layers * LAYER_SECONDS
    numbers = 0 if known.encodes else _kv(known, model.model_copy(update={"kv_cache": "fp32"}), model.max_context) // 4
    kv_read = kv / reached
    rate_of_cores = PER_CYCLE * 1e9 * (device.core_ghz or math.inf)
    # The cores work while they wait for memory, so the longer of the two decides.
    step = max(read, instructions(known, recipe, kind=model.kv_cache) / rate_of_cores)
    full = max(read + kv_read, instructions(known, recipe, numbers, model.kv_cache) / rate_of_cores)
    # The head is computed for the last token of a prompt only.
    linears = [shape for name, shape in shapes.items() if len(shape) == 2 and "layer" in name]
    adapter = 4 * model.adapter_rank * sum(map(sum, linears))  # A and B of each, float32
    whole = read_model(model) if settings.adapt.prunes and on_hub(model.source) else known  # is downloaded
    # Layers that read other layers' keys and values get the last token of a prompt only.
    late = sum(any(isinstance(state, Shared) for state in states) for states in known.states)
    early = [shape for name, shape in shapes.items() if len(shape) == 2 and _is_early(name, known.layers - late)]
    rate = device.prefill_gops * 1e9 * prefill_factor(recipe) / (2 * sum(map(math.prod, early)))
    return Plan(
        model=model.name,
        recipe=recipe.name,
        device=device.name,
        family=known.family,
        parameters=known.parameters,
        download_bytes=_stored_bytes(model, known) * whole.parameters if on_hub(model.source) else 0,
        fp16_bytes=2 * known.parameters,
        pte_bytes=pte,
        max_context=model.max_context,
        kv_cache_bytes=kv,
        kv_by_context={}
        if known.encodes
        else {context: _kv(known, model, context) for context in contexts(model.max_context, known.max_position)},
        table_bytes=table_bytes(known, recipe),
        resident_bytes=pte - table_bytes(known, recipe) + adapter + kv + RUNTIME_BYTES,
        limit_bytes=int(device.app_memory_limit_gb * 1e9),
        ram_bytes=int(device.ram_gb * 1e9),
        roofline_tok_s=0 if known.encodes else round(bandwidth / streamed, 1),
        decode_tok_s=0 if known.encodes else round(1 / step, 1),
        decode_full_tok_s=0 if known.encodes else round(1 / full, 1),
        prefill_tok_s=round(rate, 1),
        prompt_tokens=prompt,
        ttft_s=round(prompt / rate + step, 4 if known.encodes else 3),  # at least a step: it reads all weights too
        export_cpu_s=export_seconds(known, recipe),
        export_peak_bytes=peak_bytes("", known, settings.model_copy(update={"recipe": recipe})),
        host_bytes=host.memory_bytes(),
        embeds=known.encodes,
    )


def _stored_bytes(model: Model, known: Architecture) -> int:
    """Bytes of a weight on the hub: what a named model's config says, else what most are."""
    said = (model.architecture or {}).get("torch_dtype")
    return {"bfloat16": 2, "float16": 2, "float32": 4}.get(str(said), 4 if known.encodes else 2)


def instructions(known: Architecture, recipe: Quantization, cached: int = 0, kind: KvCache = "fp32") -> float:
    """What one thread of an arm64 core executes for a token, when so many numbers of the cache are looked at."""
    shapes = exported_shapes(known).items()
    weights = sum(math.prod(shape) for name, shape in shapes if len(shape) == 2 and not is_embedding(name))
    in_4_bits = WEIGHT_INSTRUCTIONS_4BIT_GROUPS if recipe.group_size else WEIGHT_INSTRUCTIONS_4BIT_CHANNELS
    of_weights = weights * WEIGHT_INSTRUCTIONS.get(recipe.scheme, in_4_bits)
    of_layers = known.layers * (LAYER_INSTRUCTIONS + KV_LAYER_INSTRUCTIONS[kind])
    return of_weights + of_layers + cached * KV_NUMBER_INSTRUCTIONS[kind]


def pte_bytes(known: Architecture, recipe: Quantization) -> int:
    """Size of the program."""
    return _held_bytes(known, recipe) - _shared_bytes(known, recipe)


def _held_bytes(known: Architecture, recipe: Quantization) -> int:
    """What becomes the program, while it is made."""
    stored = sum(tensor_bytes(name, shape, recipe) for name, shape in exported_shapes(known).items())
    turned = known.embedding[1] ** 2 if known.tied_head and recipe.transform == "rotation" else 0  # twice, in 4 bits
    return stored + turned + PTE_BYTES + PTE_BYTES_PER_LAYER * known.layers


def _shared_bytes(known: Architecture, recipe: Quantization) -> int:
    """What a tied head does not take of the file where its numbers are the embedding's: such bytes lie there once."""
    if not known.tied_head:
        return 0
    head, embedding = (
        tensor_bytes(name, known.embedding, recipe) for name in ("lm_head.weight", "embed_tokens.weight")
    )
    if recipe.mixed_bits is not None:  # 8 bits, whatever the mean of the others is
        return head if (recipe.embedding_bits, recipe.embedding_group_size) == (8, 0) else 0
    alike = head == embedding and recipe.embedding_bits != 4  # 4 bits are packed in two ways
    return head if alike and recipe.algorithm == "rtn" else 0


def stage_peaks(known: Architecture, recipe: Quantization) -> dict[str, int]:
    """Most anonymous memory of the stages that make the program and take most."""
    counts = [math.prod(shape) for shape in exported_shapes(known).values()]
    waiting = min(sum(counts), QUANTIZE_WAITING) + max(counts)
    graph = LOWER_BYTES + LOWER_BYTES_PER_LAYER * known.layers + LOWER_BYTES_PER_KV_HEAD * _layers_heads(known)
    program = LOWER_BYTES_PER_PTE_BYTE * _held_bytes(known, recipe)
    largest = max(count for count in counts if known.table is None or count != math.prod(known.table))
    return {
        "quantize": round(QUANTIZE_BYTES + QUANTIZE_BYTES_PER_WEIGHT * waiting),
        "lower": round(graph + program + LOWER_BYTES_PER_WEIGHT_OF_LARGEST * largest),
    }


def peak_bytes(stage: str, known: Architecture, settings: Settings) -> int:
    """Most anonymous memory of a stage; of one that has no formula of its own, the most of any."""
    recipe, model = settings.recipe, settings.model
    peaks = stage_peaks(known, recipe)
    kv = 0 if known.encodes else _kv(known, model, model.max_context)
    return peaks[stage] if stage in peaks else max(*peaks.values(), RUNTIME_BYTES + pte_bytes(known, recipe) + kv)


def export_seconds(known: Architecture, recipe: Quantization) -> int:
    """CPU time of the stages that make the program."""
    weights = sum(math.prod(shape) for shape in exported_shapes(known).values())
    layer = EXPORT_SECONDS_PER_LAYER if _is_dynamic(recipe) else EXPORT_SECONDS_PER_LAYER_PLAIN
    graph = layer * known.layers + EXPORT_SECONDS_PER_KV_HEAD * _layers_heads(known)
    recurrent = sum(isinstance(state, Recurrent) for states in known.states for state in states)
    graph += EXPORT_SECONDS_PER_RECURRENT * recurrent
    return round(EXPORT_SECONDS + graph + EXPORT_SECONDS_PER_WEIGHT * weights)


def _layers_heads(known: Architecture) -> int:
    """How many kv heads all layers have: each has nodes of its own in the graph. An encoder's attention has none."""
    return 0 if known.encodes else sum(state.heads for state in keys_values(known.states))  # late ones: few and short


def _is_dynamic(recipe: Quantization) -> bool:
    return recipe.scheme.startswith("8da")


def exported_shapes(known: Architecture) -> Shapes:
    """The tensors of the program: a tied head is quantized as a linear of its own."""
    return known.shapes | ({"lm_head.weight": known.embedding} if known.tied_head else {})


def state_bytes(states: States, form: ExportForm) -> dict[str, int]:
    """Bytes of what a program that holds it remembers between calls, by kind; see `layer_slots`.

    Args:
        states: of each layer.
        form: the context, the tokens of one call, and what the cache stores.
    """
    found: dict[str, int] = {}
    for state in (each for layer in states for each in layer):
        kind: str = state.kind
        size = 4 * math.prod(mixed_shape(state) or ())
        if isinstance(state, KeysValues):
            kind = "keys_values" if state.window is None or state.window >= form.max_context else "ring"
            slots = layer_slots(state.window, form.max_context, form.prefill_chunk)
            size = slots * slot_bytes(state.heads, state.dim, form.kv_cache)
        if not isinstance(state, Shared):
            found[kind] = found.get(kind, 0) + size
    return found


def kv_cache_bytes(states: States, form: ExportForm) -> int:
    """Bytes of all that a program remembers between calls."""
    return sum(state_bytes(states, form).values())


def slot_bytes(kv_heads: int, head_dim: int, kind: KvCache) -> int:
    """Size of one token's keys and values in one layer."""
    # int8 keeps a float32 scale beside each token's and head's numbers, and of keys an int8 zero.
    per_head = {"fp32": 8 * head_dim, "fp16": 4 * head_dim, "int8": 2 * head_dim + 9}[kind]
    return kv_heads * per_head


def _kv(known: Architecture, model: Model, context: int) -> int:
    chunk = min(model.prefill_chunk, context)
    form = ExportForm(max_context=context, prefill_chunk=chunk, kv_cache=model.kv_cache)
    return kv_cache_bytes(known.states, form)


def contexts(chosen: int, longest: int) -> list[int]:
    """Context lengths to compare: the chosen one, and powers of two around it that the model knows."""
    powers = [chosen // 4, chosen // 2, 2 * chosen, 4 * chosen]
    return sorted({chosen, *(length for length in powers if 64 <= length <= longest)})


def _is_early(name: str, layers: int) -> bool:
    """Whether a tensor belongs to one of the first so many layers."""
    found = re.search(r"\.layers?\.(\d+)\.", name)
    return found is not None and int(found[1]) < layers


def prefill_factor(recipe: Quantization) -> float:
    """How fast a recipe's kernels read a prompt, 8da4w in groups being 1."""
    return PREFILL_GROUPS if recipe.group_size else PREFILL_CHANNELS[recipe.scheme]


def summary(plan: Plan) -> dict[str, Any]:
    """A plan as JSON; of a model that makes embeddings without what it does not have."""
    absent = {"kv_cache_bytes", "kv_by_context", "roofline_tok_s", "decode_tok_s", "decode_full_tok_s"}
    figures = plan.model_dump(mode="json", exclude=absent if plan.embeds else None)
    return {**figures, "fits": plan.fits, "fits_phone": plan.fits_phone}
