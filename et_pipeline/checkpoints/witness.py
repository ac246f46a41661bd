"""The witness: code that is not ours says what the original model computes.

For a folder in Hugging Face layout it is transformers' own loading, or sentence-transformers' of an encoder; for a GGUF
file it is llama.cpp (see `llama_cpp`). Our reader (`reader`) makes the program, so a mistake of it would be in both
sides of a comparison with itself.
"""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from et_pipeline import gemma, host
from et_pipeline.checkpoints.config import reason
from et_pipeline.checkpoints.folder import MODULES, Folder
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.checkpoints.prequantized import check_method
from et_pipeline.checkpoints.reader import load_model, stream_model
from et_pipeline.checkpoints.skeleton import transformers_config
from et_pipeline.errors import UserError
from et_pipeline.manifest.quality import WitnessName

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from et_pipeline.checkpoints.facts import Facts

LARGEST_SHARE = 0.7  # of the machine's memory for the original model
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Of which transformers loads the language model by itself too; what sees in it would need timm.
_LANGUAGE_ALONE = ("gemma3n",)


class NoWitness(Exception):
    """Nothing but our own reader reads a checkpoint; the message says why."""


@dataclass(frozen=True)
class Whose:
    """Whose code reads the original.

    Attributes:
        name: see `manifest.Witness`.
        version: its version.
        note: why it is not a better one; None if there is none.
    """

    name: WitnessName
    version: str
    note: str | None = None


def ours(note: str) -> Whose:
    """Our own reader, where nothing else can be had."""
    return Whose("et_pipeline", metadata.version("et-pipeline"), note)


def fits(facts: Facts) -> bool:
    """Whether the whole original can be in memory, as float32."""
    return 4 * facts.parameters <= LARGEST_SHARE * host.memory_bytes()


def load_original(folder: Path, converted: bool = False) -> tuple[PreTrainedModel, Whose]:
    """The whole original as float32, by transformers itself where it can.

    Args:
        folder: the checkpoint; it has to fit into memory (see `fits`).
        converted: the folder was made from a GGUF file by us.
    """
    try:
        return _from_pretrained(folder), _transformers(converted)
    except NoWitness as error:
        return load_model(folder), ours(str(error))


def use_sdpa(model: Any) -> None:
    """Let attention be computed by PyTorch's own function, where that means the same, for two thirds of the work."""
    if model._supports_sdpa and getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is None:
        model.set_attn_implementation("sdpa")


def sample_layers(count: int) -> list[int]:
    """The first, a middle and the last of some layers."""
    return sorted({0, count // 2, count - 1})


def load_sample(
    folder: Path, layers: list[int], scratch: Path, converted: bool = False
) -> tuple[PreTrainedModel, Whose]:
    """A model of some of the original's layers as float32, by transformers itself.

    Its weights are the original's bytes, copied to a folder of their own: transformers reads whole checkpoints only.

    Args:
        folder: the checkpoint.
        layers: numbers of the layers, from 0.
        scratch: folder for the copy.
        converted: the folder was made from a GGUF file by us.

    Raises:
        NoWitness: transformers does not read it.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = {}
    checkpoint = Folder(folder)
    family = transformers_config(checkpoint).get_text_config().model_type
    if family in gemma.KINDS:
        raise NoWitness(
            f"the model does not fit into memory, and layers of family {family} read others' keys and values"
        )
    for name, info in checkpoint.layout.items():
        own = _renumbered(name, layers)
        if own is not None:
            with safe_open(folder / info.file, framework="pt") as file:
                tensors[own] = file.get_tensor(info.stored)
    save_file(tensors, scratch / "model.safetensors", {"format": "pt"})
    del tensors
    config, content = sampled_config(checkpoint, layers), checkpoint.config
    if "quantization_config" in content:
        config.quantization_config = _renumbered(content["quantization_config"], layers)
    config.save_pretrained(scratch)
    return _from_pretrained(scratch), _transformers(converted)


def _renumbered(value: Any, layers: list[int]) -> Any:
    """A name, or all in a configuration, as a model of these layers has them; None for a name of another layer."""
    if isinstance(value, dict):
        return {key: _renumbered(each, layers) for key, each in value.items()}
    if isinstance(value, list):
        return [own for own in (_renumbered(each, layers) for each in value) if own is not None]
    found = _LAYER.search(value) if isinstance(value, str) else None
    if found is None:
        return value
    number, (start, end) = int(found[1]), found.span(1)
    return f"{value[:start]}{layers.index(number)}{value[end:]}" if number in layers else None


def stream_sample(folder: Path, layers: list[int]) -> PreTrainedModel:
    """The same layers by our reader, from the checkpoint itself."""
    from torch import nn

    model = stream_model(folder)
    decoder: Any = model.get_decoder()
    decoder.layers = nn.ModuleList([decoder.layers[number] for number in layers])
    config = sampled_config(Folder(folder), layers)
    config._attn_implementation = model.config._attn_implementation
    for module in _with_config(model):
        module.config = config.get_text_config()
    return model


def _with_config(model: nn.Module) -> Iterable[Any]:
    return [module for module in model.modules() if hasattr(module, "config") and not hasattr(module, "rope_type")]


def sampled_config(folder: Folder, layers: list[int]) -> Any:
    """The configuration of a model of these layers only: a list with an entry per layer keeps those of these."""
    config: Any = transformers_config(folder)
    text = config.get_text_config()
    count = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == count:
            setattr(text, name, [value[number] for number in layers])
    text.num_hidden_layers = len(layers)
    return config


def load_encoder(folder: Path) -> tuple[Callable[[list[list[int]]], torch.Tensor], Whose]:
    """An encoder with its pooling: sentence-transformers' own where it reads it, else transformers' with our pooling.

    Returns:
        A function from token ids of some texts to embeddings [N, hidden] float32, and whose it is.

    Raises:
        NoWitness: neither reads it.
    """
    import torch

    from et_pipeline.models.encoder import DENSE, embed_batch, padding_id

    note = None
    if (folder / MODULES).is_file():
        try:
            whole = _sentence_transformer(folder)
        except (ImportError, OSError, ValueError) as error:
            note = f"the pooling is our own reading, as sentence-transformers does not load it: {reason(error)}"
        else:

            def embed(texts: list[list[int]]) -> torch.Tensor:
                longest, pad = max(map(len, texts)), padding_id(whole[0].auto_model)
                features = {
                    "input_ids": torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts]),
                    "attention_mask": torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts]),
                }
                with torch.no_grad():
                    found: torch.Tensor = whole(features)["sentence_embedding"].float()
                return found

            return embed, Whose("sentence-transformers", metadata.version("sentence-transformers"))
    model, pooling = _from_pretrained(folder, encodes=True), read_pooling(Folder(folder))
    if pooling.dense:
        model.add_module(DENSE, load_model(folder).get_submodule(DENSE))
    whose = Whose("transformers", metadata.version("transformers"), note)
    return lambda texts: embed_batch(model, texts, pooling), whose


def _sentence_transformer(folder: Path) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"},
    )


def _transformers(converted: bool) -> Whose:
    if converted:
        return Whose("gguf", metadata.version("gguf"))
    return Whose("transformers", metadata.version("transformers"))


def _from_pretrained(folder: Path, encodes: bool = False) -> PreTrainedModel:
    """The model as transformers loads it from the folder, as float32, quantized weights as the floats they stand for.

    Raises:
        NoWitness: the checkpoint is quantized in a form that transformers does not read here.
        UserError: it finds weights missing or of another shape, which it would make up.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM

    whole = AutoModelForMultimodalLM if Folder(folder).senses else AutoModelForCausalLM
    kind = AutoModel if encodes else whole
    try:
        with _without_adapter(folder) as place:
            config = _config(place)
            if config.model_type in _LANGUAGE_ALONE:
                config, kind = config.get_text_config(), AutoModelForCausalLM
            model, report = kind.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if check_method(Folder(folder).config, str(folder)) is None:
            raise UserError(f"{folder}: transformers does not load it: {reason(error)}") from error
        raise NoWitness(f"transformers does not read these quantized weights here: {reason(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    wrong = sorted(str(each) for each in report["mismatched_keys"])
    if missing or wrong:
        raise UserError(
            f"{folder}: transformers does not find the weights of {', '.join((missing or wrong)[:3])} in it, and would "
            "make them up; the checkpoint is not complete"
        )
    if getattr(model, "hf_quantizer", None) is not None:
        _dequantize(model)
    gc.collect()
    return model.eval().requires_grad_(False)


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """The folder as one without an adapter: with peft installed, transformers would load that and the base it names."""
    if not any(folder.glob("adapter_*")):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                host.link(Path(scratch) / path.name, path.resolve())
        yield Path(scratch)


def _config(folder: Path) -> Any:
    """As transformers reads it, without a padding token that it refuses to build a model with."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is not None and not 0 <= text.pad_token_id < text.vocab_size:
        text.pad_token_id = None
    return config


def _dequantize(model: Any) -> None:
    """Let the tool that reads a quantized checkpoint say what floats its weights stand for."""
    from torch import nn

    method = model.hf_quantizer.quantization_config.quant_method
    if method == "compressed-tensors":
        return  # it computes with floats, and where it keeps them they are rounded to the type of the scales
    if method == "torchao":
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if weight is not None and hasattr(weight, "dequantize") and hasattr(weight, "qdata"):
                module.weight = nn.Parameter(weight.dequantize().float(), requires_grad=False)
    else:
        model.dequantize()
        model.float()
