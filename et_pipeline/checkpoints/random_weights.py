"""A checkpoint of a given architecture with random weights: size, memory and speed of a model without its download.

Every tensor has a generator of its own, seeded by (seed, name), so that a run that was killed goes on with the next
shard. A bfloat16 has 16 bits, so a weight is drawn by looking up 16 random bits among the quantiles of the normal
distribution: as good as a float32 normal that is rounded, several times as fast, and the same bytes with every version
of NumPy (the raw bits of a generator never change).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from et_pipeline import tiny_assistant
from et_pipeline.checkpoints.folder import MODULES, Folder
from et_pipeline.checkpoints.pooling import POOLING
from et_pipeline.checkpoints.shards import NewTensor, bfloat16, encode, write_checkpoint
from et_pipeline.checkpoints.skeleton import build_skeleton, init_weights
from et_pipeline.errors import UserError
from et_pipeline.settings import RANDOM, Frozen, Sentence
from et_pipeline.worker import Tick

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TO_RESIDUAL = (".o_proj.weight", ".down_proj.weight")  # all families that are supported call them so
BLOCK = 1 << 22  # weights drawn at a time
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_DEFAULT_STD = 0.02  # transformers' own initializer_range where a family names none


class RandomModel(Frozen):
    """What random weights depend on: the content of a config.json, what is behind an embedder's pooling, and a seed."""

    architecture: dict[str, Any]
    seed: int
    sentence: Sentence | None = None


def run(inputs: dict[str, Path], out: Path, tick: Tick, model: RandomModel) -> dict[str, Any]:
    """Fill a folder with the checkpoint; see `worker.run_stage`.

    Raises:
        UserError: no model can be built from the architecture, or the disk has too little room.
    """
    if "quantization_config" in model.architecture:
        raise UserError("model.architecture has a quantization_config, but made-up weights are floats; leave it out")
    _write_small_files(out, model.architecture)
    if model.sentence is not None:
        _write_sentence_files(out, model.architecture, model.sentence)
    try:
        skeleton, tied = build_skeleton(Folder(out), as_stored=True)
    except UserError as error:
        sentence = str(error).replace(str(out / "config.json"), "model.architecture")
        raise UserError(sentence.replace(str(out), "model.architecture")) from error
    given = _constants(skeleton)
    config = skeleton.config.get_text_config()
    std = getattr(config, "initializer_range", None) or _DEFAULT_STD
    usual = _normal_table(std)
    # What layers add to the residual stream is kept as large as the embedding, which is there already, and no larger:
    # else nothing but sums of dozens of random products is left of the input, and rounding grows to a cosine of 0.98.
    residual = _normal_table(std * std / math.sqrt(2 * config.num_hidden_layers))
    tensors = [
        NewTensor(name, tuple(value.shape), "BF16") for name, value in skeleton.state_dict().items() if name not in tied
    ]

    def content(tensor: NewTensor) -> Iterator[bytes]:
        if tensor.name in given:
            yield encode(given[tensor.name], tensor.dtype)
        else:
            yield from _draw(residual if tensor.name.endswith(_TO_RESIDUAL) else usual, model.seed, tensor)

    source = f"model.source={RANDOM}"
    behind = {f"dense.{number}.weight": name for number, name in enumerate(_dense_folders(model.sentence))}
    for tensor in tensors:  # before the checksums of all
        if tensor.name in behind:
            layer = [tensor._replace(name="linear.weight")]
            write_checkpoint(out / behind[tensor.name], source, layer, partial(_draw, usual, model.seed), tick)
    write_checkpoint(out, source, [tensor for tensor in tensors if tensor.name not in behind], content, tick)
    return {"parameters": sum(math.prod(tensor.shape) for tensor in tensors)}


def _write_small_files(out: Path, architecture: dict[str, Any]) -> None:
    """The given config with the built-in model's tokenizer, whose ids any real vocabulary has."""
    for name in _TOKENIZER_FILES:
        shutil.copyfile(tiny_assistant.CHECKPOINT / name, out / name)
    built_in = json.loads((tiny_assistant.CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    ids = {name: built_in[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = {**architecture, **ids, "dtype": "bfloat16"}
    config.pop("torch_dtype", None)
    text = config.get("text_config")
    if isinstance(text, dict):
        config["text_config"] = text = {**text, **ids}
    vocab_size = (text or config).get("vocab_size")
    if isinstance(vocab_size, int) and vocab_size < built_in["vocab_size"]:
        raise UserError(
            f"model.architecture.vocab_size={vocab_size} is below the {built_in['vocab_size']} tokens of the built-in "
            f"tokenizer, which model.source={RANDOM} uses"
        )
    # Not sorted: a config that is read back has the order it came with.
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _dense_folders(sentence: Sentence | None) -> list[str]:
    return [] if sentence is None else [f"{number}_Dense" for number in range(2, 2 + len(sentence.dense))]


def _write_sentence_files(out: Path, architecture: dict[str, Any], sentence: Sentence) -> None:
    """As sentence-transformers writes them."""
    folders = _dense_folders(sentence)
    steps = [("Transformer", ""), ("Pooling", POOLING), *(("Dense", name) for name in folders)]
    steps.append(("Normalize", f"{len(steps)}_Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(steps)
    ]
    widths = [architecture.get("hidden_size"), *sentence.dense]
    files: dict[str, Any] = {MODULES: modules}
    files[f"{POOLING}/config.json"] = {"word_embedding_dimension": widths[0], "pooling_mode": sentence.pooling}
    for name, (before, after) in zip(folders, pairwise(widths), strict=True):
        bend = "torch.nn.modules.linear.Identity"
        given = {"in_features": before, "out_features": after, "bias": False, "activation_function": bend}
        files[f"{name}/config.json"] = given
    for name, content in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _constants(model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Vectors other than biases (norms, scales), as the family itself initializes them; 1 where it does not.

    Families differ: a norm that is neutral is 1 in Llama and 0 in Gemma.
    """
    import torch

    found = {}
    for name, module in model.named_modules():
        saved = {own: value for own, value in module._buffers.items() if own not in module._non_persistent_buffers_set}
        values = {own: value for own, value in {**module._parameters, **saved}.items() if value is not None}
        if any(value.dim() > 1 for value in values.values()):
            continue
        for own, value in values.items():
            unset = torch.full(value.shape, math.nan)
            if own in saved:
                module._buffers[own] = unset
            else:
                module._parameters[own] = torch.nn.Parameter(unset, requires_grad=False)
        if values:
            init_weights(model, module)
        for own in values:
            value = getattr(module, own).detach()
            if not own.endswith("bias"):
                found[f"{name}.{own}" if name else own] = torch.where(value.isnan(), 1.0, value).numpy()
    return found


def _normal_table(std: float) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The bfloat16 bits of 65536 equally likely values of a normal distribution."""
    normal = NormalDist(0, std)
    return bfloat16(np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32))


def _draw(table: np.ndarray[Any, np.dtype[np.uint16]], seed: int, tensor: NewTensor) -> Iterator[bytes]:
    digest = hashlib.sha256(f"{seed}/{tensor.name}".encode()).digest()
    bits = np.random.SFC64(int.from_bytes(digest[:16], "little"))
    left = math.prod(tensor.shape)
    while left:
        count = min(left, BLOCK)
        drawn = bits.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
        yield table[drawn].tobytes()
        left -= count
