"""Turn a GGUF file into a checkpoint folder in Hugging Face layout, tensor by tensor.

Linears of the types Q4_0 and Q8_0 keep their integers and scales, in compressed-tensors' form (see `prequantized`):
they are symmetric groups of 32, as recipes have them. All else becomes floats.

Names, shapes and the order of rotary halves follow transformers' own tables for GGUF. What those tables leave out would
give a model that answers, but wrongly: a tensor that finds no place, or a rotary scaling that cannot be read back, is
refused here.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from et_pipeline.checkpoints import gguf_keys
from et_pipeline.checkpoints.shards import NewTensor, encode, write_checkpoint
from et_pipeline.checkpoints.skeleton import build_skeleton
from et_pipeline.checkpoints.tokenizer import SPACE
from et_pipeline.errors import UserError
from et_pipeline.settings import Frozen, first_line
from et_pipeline.upstream.gguf_reader import opened_once
from et_pipeline.worker import Tick

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderField, ReaderTensor
    from tokenizers import Tokenizer

MAGIC = b"GGUF"
MOST_VALUES = 1000  # of a field that is a number per layer
MOST_ELEMENTS = 1 << 22  # values in a header; the largest vocabularies have a third of that
BLOCK = 1 << 22  # weights decoded at a time
_STRING, _ARRAY = 8, 9  # types of values in a header, and the bytes of the others
_KV_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GROUP = 32  # weights per scale
_FORMAT = "pack-quantized"
_PACKED, _SCALE, _SHAPE = "_packed", "_scale", "_shape"  # after `weight`, in this form
_KEPT_BITS = {"Q4_0": 4, "Q8_0": 8}
_WHOLE_TYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
# Tensors that no family reorders. They are the largest, so they are decoded in blocks of rows.
_PLAIN = ("token_embd.weight", "output.weight")

# How text is cut before byte pairs are merged, in llama.cpp's words. transformers has a table of regular expressions,
# and takes GPT-2's for every other word; these are the words for which that is right, or right after digits are cut.
_GPT2_SPLITS = (None, "default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2")
_BOS_SPLITS = ("llama3", "llama-v3", "llama-bpe")  # that begin a text with BOS where the file does not say
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")


class GgufFile(Frozen):
    """The file to convert.

    Attributes:
        path: of the file, or of its first part.
        more: paths of the other parts, in order.
    """

    path: str
    more: tuple[str, ...] = ()


class _Source(NamedTuple):
    """What a weight is made from; `bits` are those of integers that are kept, 0 for floats."""

    tensor: ReaderTensor
    gguf_name: str
    shape: tuple[int, ...]
    bits: int


def run(inputs: dict[str, Path], out: Path, tick: Tick, file: GgufFile) -> dict[str, Any]:
    """Fill a folder with the checkpoint; see `worker.run_stage`.

    Raises:
        UserError: the file is damaged, or holds something that cannot be converted faithfully.
    """
    path = Path(file.path)
    reader = open_file(path, [Path(part) for part in file.more])
    with _trusting(path, "metadata"):
        architecture = str(_value(reader, "general.architecture"))
        _write_config(path, reader, architecture, out)
    with _trusting(path, "tokenizer"):
        _write_tokenizer(path, reader, out)
    sources, config = _match(path, reader, architecture, out)
    plan = {tensor: source for name, source in sources.items() for tensor in _stored(name, source)}
    decoder = _Decoder(path, architecture, config)
    write_checkpoint(out, f"model.source={path}", list(plan), lambda t: decoder.pieces(t, plan[t]), tick)
    return {"parameters": sum(math.prod(source.shape) for source in sources.values())}


def check_magic(path: Path) -> None:
    """Look at the first bytes of a file, before all of it is read.

    Raises:
        UserError: it is no GGUF file.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path} is not a GGUF file: it does not begin with the letters GGUF")
        version = stream.read(4)
    if version[:2] == b"\0\0" and len(version) == 4 and version[2:] != b"\0\0":
        raise UserError(
            f"{path} is a big-endian GGUF file, as mainframes have them; make a little-endian one of it with gguf's "
            "gguf-convert-endian, or point model.source at its original checkpoint"
        )
    if version == b"\1\0\0\0":
        raise UserError(
            f"{path} is a GGUF file of version 1, of 2023; convert the original checkpoint anew, or point model.source "
            "at it"
        )


def open_file(path: Path, more: Sequence[Path] = ()) -> GGUFReader:
    """Read the header of a GGUF file.

    Args:
        path: the file, or its first part.
        more: the other parts in order, whose tensors the result has too.

    Raises:
        UserError: it is not one, or is cut short, or the parts are not those of one model.
    """
    reader = _open_part(path, 0, 1 + len(more))
    for number, part in enumerate(more, start=1):
        reader.tensors += _open_part(part, number, 1 + len(more)).tensors
    with _trusting(path, "header"):
        if _value(reader, "general.architecture") is None:
            raise UserError(f"{path} names no general.architecture")
        names = {tensor.name for tensor in reader.tensors}
        if more and not len(names) == len(reader.tensors) == _value(reader, "split.tensors.count"):
            raise UserError(
                f"{path} and the parts beside it have {len(names)} different tensors in {len(reader.tensors)}, but its "
                f"split.tensors.count is {_value(reader, 'split.tensors.count')}; they are not parts of one model"
            )
    return reader


def _open_part(path: Path, number: int, count: int) -> GGUFReader:
    from gguf import GGUFReader

    with _trusting(path, "header"):
        _check_header(path)
        reader = GGUFReader(path)
        found = _value(reader, "split.no") or 0, _value(reader, "split.count") or 1
    if found != (number, count):
        raise UserError(
            f"{path} is by its metadata part {found[0] + 1} of {found[1]} of a model, and by its name part "
            f"{number + 1} of {count}; name parts as llama.cpp does, such as model-00001-of-00003.gguf, or join them "
            "with `llama-gguf-split --merge`"
        )
    return reader


def _check_header(path: Path) -> None:
    """Walk through the header by its own counts and lengths: gguf believes them, and goes on behind the file's end.

    Raises:
        UserError: they lead out of the file, or there are more values than gguf can take, at some 200 bytes each.
    """
    damaged = f"{path} is damaged or cut short: its header"
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, left = len(MAGIC), MOST_ELEMENTS

        def skip(count: int) -> None:
            nonlocal at
            at += count
            if at > len(data):
                raise UserError(f"{damaged} leads to byte {at}, but the file has {len(data)}")

        def number(form: str) -> int:
            start = at
            skip(struct.calcsize(form))
            value: int = struct.unpack_from(form, data, start)[0]
            return value

        def spend(count: int) -> None:
            nonlocal left
            left -= count
            if left < 0:
                raise UserError(f"{damaged} has more than {MOST_ELEMENTS} values")

        def value(kind: int, count: int) -> None:
            spend(count)
            if kind == _STRING:
                for _ in range(count):
                    skip(number("<Q"))
            elif kind in _KV_BYTES:
                skip(count * _KV_BYTES[kind])
            else:
                raise UserError(f"{damaged} has a value of type {kind} at byte {at}")

        number("<I")
        tensors, keys = number("<Q"), number("<Q")
        spend(tensors + keys)
        for _ in range(keys):
            skip(number("<Q"))
            kind = number("<I")
            if kind == _ARRAY:
                value(number("<I"), number("<Q"))
            else:
                value(kind, 1)
        for _ in range(tensors):
            skip(number("<Q"))
            skip(8 * number("<I") + 12)  # sizes, type, place


@contextmanager
def _trusting(path: Path, part: str) -> Iterator[None]:
    """Libraries take the file's word for every length, index and text; what a broken one raises is chance."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged or cut short: its {part} cannot be read ({first_line(error)})") from error


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _write_config(path: Path, reader: GGUFReader, architecture: str, out: Path) -> None:
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        with opened_once(reader):
            found = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
        config = AutoConfig.for_model(**found)
    except ValueError as error:
        if "not supported yet" not in str(error) and "nrecognized model" not in str(error):
            raise
        raise UserError(
            f"{path} holds a model of architecture {architecture}, whose GGUF form transformers cannot convert; "
            "point model.source at its original checkpoint"
        ) from error
    metadata = {key: field.contents() for key, field in reader.fields.items() if not _is_long(field)}
    gguf_keys.check_keys(path, architecture, metadata)
    values = config.to_dict()
    gguf_keys.carry(path, architecture, metadata, values)
    scaling = _llama3_rope(path, reader, architecture)
    if scaling:
        values["rope_parameters"] = {**(values.get("rope_parameters") or {}), **scaling}
    values = _short(values)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def _short(value: Any) -> Any:
    """The decimals that were meant: a GGUF file keeps 1e-06 as the float32 nearest to it."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _is_long(field: ReaderField) -> bool:
    """Whether a field is a vocabulary or the like, which takes seconds to read."""
    return len(field.data) > MOST_VALUES


def _llama3_rope(path: Path, reader: GGUFReader, architecture: str) -> dict[str, Any]:
    """Llama 3's change of rotary frequencies for long contexts, which transformers' tables pass over."""
    stored = next((tensor for tensor in reader.tensors if tensor.name == _ROPE_FACTORS), None)
    if stored is None:
        return {}
    # Llama 3.1 and later: the file holds the finished divisors, from which the one free parameter is read back.
    divisors = np.asarray(stored.data, np.float32).ravel()
    theta = _value(reader, f"{architecture}.rope.freq_base") or 10000.0
    factor = float(divisors.max())
    if not np.allclose(divisors, _llama3_divisors(len(divisors), theta, factor), rtol=1e-3):
        raise UserError(
            f"{path} scales its rotary positions by {_ROPE_FACTORS} in a way other than Llama 3's, which cannot be "
            "converted; point model.source at its original checkpoint"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}


def _llama3_divisors(count: int, theta: float, factor: float) -> np.ndarray[Any, Any]:
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    turns = _LLAMA3_ROPE["original_max_position_embeddings"] * theta ** (-np.arange(count) / count) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _match(path: Path, reader: GGUFReader, architecture: str, out: Path) -> tuple[dict[str, _Source], dict[str, Any]]:
    """Find for every tensor of the model the one of the file, in the model's order."""
    from torch import nn
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    model, tied = build_skeleton(out, as_stored=True)
    values = json.loads((out / "config.json").read_text())
    values["architectures"] = [type(model).__name__]
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=values)
    try:
        names = get_gguf_hf_weights_map(model, processor)
    except NotImplementedError as error:
        raise UserError(f"{path} holds a model of architecture {architecture}, which cannot be converted") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name != _ROPE_FACTORS}
    strangers = sorted(set(tensors) - set(names))
    if strangers:
        raise UserError(
            f"{path}: tensor {strangers[0]} has no place in the {architecture} model that its metadata describe; "
            "point model.source at its original checkpoint"
        )
    _check_types(path, list(tensors.values()))
    stored = {names[name]: tensor for name, tensor in tensors.items()}
    found = {}
    for name, value in model.state_dict().items():
        if name in tied:
            continue
        if name not in stored:
            raise UserError(f"{path}: the file has no tensor for {name}, which its metadata ask for")
        tensor, shape = stored[name], tuple(value.shape)
        given = tuple(int(n) for n in reversed(tensor.shape))
        if math.prod(shape) != math.prod(given) or (len(given) == len(shape) and given != shape):
            raise UserError(
                f"{path}: tensor {tensor.name} has shape {list(given)}, but the metadata ask for {list(shape)}"
            )
        # Of linears alone: transformers, the other reader of the folder, knows no embedding in this form.
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and len(shape) == 2
        bits = _KEPT_BITS.get(tensor.tensor_type.name, 0) if linear else 0
        found[name] = _Source(tensor, tensor.name, shape, bits)
    values |= _quantization(found)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    return found, values


def _quantization(sources: dict[str, _Source]) -> dict[str, Any]:
    """What config.json says of the integers that are kept."""
    groups = {}
    for kind, bits in _KEPT_BITS.items():
        modules = [name.removesuffix(".weight") for name, source in sources.items() if source.bits == bits]
        if modules:
            weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
            groups[kind] = {"targets": modules, "weights": weights, "format": _FORMAT}
    if not groups:
        return {}
    settings = {"quant_method": "compressed-tensors", "format": _FORMAT, "quantization_status": "compressed"}
    return {"quantization_config": {**settings, "converted_from": "GGUF", "config_groups": groups}}


def _stored(name: str, source: _Source) -> list[NewTensor]:
    """The tensors of the checkpoint that hold a weight."""
    if not source.bits:
        return [NewTensor(name, source.shape, _WHOLE_TYPES.get(source.tensor.tensor_type.name, "F16"))]
    rows, columns = source.shape
    return [
        NewTensor(f"{name}{_PACKED}", (rows, columns * source.bits // 32), "I32"),
        # As floats of 32 bits, for compressed-tensors multiplies in the scales' type.
        NewTensor(f"{name}{_SCALE}", (rows, columns // GROUP), "F32"),
        NewTensor(f"{name}{_SHAPE}", (2,), "I64"),
    ]


def _check_types(path: Path, tensors: list[ReaderTensor]) -> None:
    from gguf import dequantize

    firsts = {tensor.tensor_type: tensor for tensor in reversed(tensors)}
    for kind, tensor in firsts.items():
        try:
            dequantize(tensor.data[:1], kind)
        except NotImplementedError as error:
            raise UserError(
                f"{path}: tensor {tensor.name} is of type {kind.name}, which the gguf library cannot decode"
            ) from error


class _Decoder:
    """Makes the bytes of a tensor from its blocks."""

    def __init__(self, path: Path, architecture: str, config: dict[str, Any]) -> None:
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

        self._path = path
        kind = TENSOR_PROCESSORS.get(architecture)
        self._processor = None if kind is None else kind(config=config)

    def pieces(self, tensor: NewTensor, source: _Source) -> Iterator[bytes]:
        """A tensor of `_stored` in safetensors' form; in one piece if its family stores it in another order.

        Raises:
            UserError: it holds what is no weight.
        """
        part = tensor.name.rpartition("weight")[2]
        if part == _SHAPE:
            yield np.array(source.shape, "<i8").tobytes()
            return
        data, limit = source.tensor.data, np.finfo(np.float16 if tensor.dtype == "F16" else np.float32).max
        rows = len(data)
        if self._processor is None or source.gguf_name in _PLAIN:
            rows = max(1, BLOCK // (math.prod(source.shape) // rows))
        for start in range(0, len(data), rows):
            blocks = data[start : start + rows]
            if part == _SCALE:
                yield encode(self._scales(blocks, source), tensor.dtype)
                continue
            values = self._floats(blocks, source)
            if not bool((np.abs(values) <= limit).all()):  # false for NaN too
                raise UserError(f"{self._path} is damaged: tensor {source.gguf_name} holds values that are no weights")
            if part == _PACKED:
                yield _pack(values, self._scales(blocks, source), source.bits)
            else:
                yield encode(values, tensor.dtype)

    def _floats(self, blocks: np.ndarray[Any, Any], source: _Source) -> np.ndarray[Any, Any]:
        from gguf import dequantize

        return self._in_order(np.asarray(dequantize(blocks, source.tensor.tensor_type), np.float32), source)

    def _in_order(self, values: np.ndarray[Any, Any], source: _Source) -> np.ndarray[Any, Any]:
        if self._processor is None or source.gguf_name in _PLAIN:
            return values
        values, name, _ = self._processor.process(values, source.gguf_name)
        if name != source.gguf_name:
            raise UserError(f"{self._path}: tensor {source.gguf_name} is packed in a way that is not supported")
        return values

    def _scales(self, blocks: np.ndarray[Any, Any], source: _Source) -> np.ndarray[Any, Any]:
        """A block of either type begins with its scale; rows are put in order as those of weights are."""
        groups = source.shape[1] // GROUP
        stored = blocks.reshape(len(blocks), groups, -1)[..., :2].copy().view("<f2")[..., 0].astype(np.float32)
        return self._in_order(np.repeat(stored, GROUP, axis=1), source)[:, ::GROUP]


def _pack(values: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], bits: int) -> bytes:
    """The integers of which gguf has made the weights, from 0 on, the first in the lowest bits."""
    groups, steps = values.reshape(len(values), -1, GROUP), scales[..., None]
    integers = np.rint(groups / np.where(steps == 0, np.float32(1), steps))
    half = 1 << (bits - 1)
    assert bool((integers * steps == groups).all() and (integers >= -half).all() and (integers < half).all())
    unsigned = (integers + half).astype(np.uint8).reshape(len(values), -1)
    return (unsigned[:, ::2] | unsigned[:, 1::2] << 4 if bits == 4 else unsigned).tobytes()


def _write_tokenizer(path: Path, reader: GGUFReader, out: Path) -> None:
    from tokenizers import Tokenizer, processors
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    if _value(reader, "tokenizer.ggml.model") is None:
        raise UserError(f"{path} holds no tokenizer")
    architecture, vocabulary, config = get_gguf_tokenizer(str(path))
    converted, _ = convert_gguf_tokenizer(architecture, vocabulary)
    # GPT-2's class adds GPT-2's own special token, which this vocabulary may not have.
    content = json.loads(converted.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < len(vocabulary["tokens"])]
    if vocabulary["tokenizer_type"] == "llama":
        content |= _sentencepiece(_value(reader, "tokenizer.ggml.add_space_prefix") is not False)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    adds = _value(reader, "tokenizer.ggml.add_bos_token")
    if adds is None:  # llama.cpp's own choice
        adds = vocabulary["tokenizer_type"] == "llama" or vocabulary.get("pre_tokenizer_type") in _BOS_SPLITS
    before = config.get("bos_token") if adds else None
    if before is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before}:0 $A:0", special_tokens=[(before, tokenizer.token_to_id(before))]
        )
    if vocabulary["tokenizer_type"] == "gpt2":
        _set_split(path, tokenizer, vocabulary.get("pre_tokenizer_type"))
    tokenizer.save(str(out / "tokenizer.json"))
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")}
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in named.items() if v is not None}}
    (out / "tokenizer_config.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    ends = [_value(reader, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ids = {"bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"), "eos_token_id": _distinct(ends)}
    generation = {name: value for name, value in ids.items() if value not in (None, [])}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    licence = _value(reader, "general.license")
    if licence:
        (out / "README.md").write_text(f"---\nlicense: {licence}\n---\n")


def _sentencepiece(prefix: bool) -> dict[str, Any]:
    """How SentencePiece marks spaces, as Llama 2's own tokenizer.json and llama.cpp do it.

    Args:
        prefix: whether a mark stands before a text, and before each that follows a special token.
    """
    marks: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    back: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    back += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        marks.insert(0, {"type": "Prepend", "prepend": SPACE})
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": marks},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
    }


def _set_split(path: Path, tokenizer: Tokenizer, split: str | None) -> None:
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if split in _DIGIT_SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split not in (*_GPT2_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise UserError(
            f"{path} splits text in the way {split!r} (tokenizer.ggml.pre), which cannot be converted; "
            "point model.source at its original checkpoint"
        )


def _distinct(ids: list[int | None]) -> list[int]:
    return list(dict.fromkeys(token for token in ids if token is not None))
