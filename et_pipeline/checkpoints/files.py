"""The files of a checkpoint's folder: which of them are read, whether they are whole, and what lies beside them."""

from __future__ import annotations

from pathlib import Path

from et_pipeline import cache
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.layout import INDEX, SINGLE
from et_pipeline.checkpoints.pooling import FILES as POOLING_FILES
from et_pipeline.checkpoints.shards import CHECKSUMS
from et_pipeline.errors import UserError
from et_pipeline.worker import Tick

PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "*.safetensors",
    "README.md",
    "LICENSE*",
    *POOLING_FILES,
)

# What lies beside weights and has no part in what they compute.
_HARMLESS = (
    ".*",  # of git, of the hub's downloads
    cache.RECORD,  # of a checkpoint that was made here
    "*.md",
    "*.txt",
    "*.png",
    "*.jpg",
    "*.gif",
    "*.svg",
    "*.pdf",
    "*.log",
    "LICEN[CS]E*",
    "NOTICE*",
    "USE_POLICY*",
    CHECKSUMS,
    "tokenizer.model",  # the same tokenizer in other forms
    "tokenizer.model.v*",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "params.json",  # the same model in its maker's own form
    "consolidated*",
    "pytorch_model*",
    "flax_model*",
    "tf_model*",
    "*.onnx",
    "rust_model.ot",
    "training_args.bin",  # of training
    "trainer_state.json",
    "all_results.json",
    "*_results.json",
    "scores.json",
    "optimizer.*",
    "scheduler.*",
    "rng_state*",
    "quantize_config.json",  # copied into config.json
    "quantization_config.json",
    "recipe.yaml",
    "data_config.json",
    "train_script.py",
    "preprocessor_config.json",  # of other tasks
    "processor_config.json",
)


def hash_files(folder: Path, tick: Tick) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint that the pipeline may read, by name.

    A `SHA256SUMS` file (the format of `sha256sum`) in the folder is checked.

    Raises:
        UserError: there are no weights in safetensors form, or a file is not what `SHA256SUMS` says.
    """
    paths = sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in paths):
        pickled = next((p.name for p in sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None)
        if pickled:
            raise UserError(
                f"{folder} has its weights in {pickled}, a pickle, which can run any code when it is read; "
                "save the model with safe_serialization=True and use that"
            )
        packed = next(iter(sorted(folder.glob("*.gguf"))), None)
        if packed:
            raise UserError(f"{folder} has its weights in GGUF form; point model.source at {packed}")
        raise UserError(f"{folder} has no .safetensors file")
    hashes = cache.sha256_files(folder, paths, tick)
    sums = folder / CHECKSUMS
    if sums.is_file():
        for line in sums.read_text(encoding="utf-8").splitlines():
            expected, _, name = line.partition(" ")
            name = name.lstrip(" *")
            if name in hashes and hashes[name] != expected:
                raise UserError(
                    f"{folder / name} is damaged or altered: its sha256 is {hashes[name][:12]}…, "
                    f"{CHECKSUMS} says {expected[:12]}…"
                )
            if name and not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing; {CHECKSUMS} lists it")
    return hashes


def unused_files(folder: Folder) -> list[str]:
    """Files beside the checkpoint's that a user may take for a part of it, a sentence for all of them."""
    read = {info.file for info in folder.layout.values()}
    files = sorted(path for path in folder.path.iterdir() if path.is_file())
    found = [
        path.name
        for path in files
        if path.name not in read
        and not any(path.match(pattern) for pattern in (*PATTERNS, *_HARMLESS) if pattern != "*.safetensors")
    ]
    if INDEX in {path.name for path in files} and SINGLE in read:
        found.append(INDEX)
    if not found:
        return []
    said = f"{folder.path} holds {', '.join(found)} beside the model, and nothing of that is used"
    adapter = any(name.startswith("adapter_") for name in found)
    return [f"{said}; model.adapter={folder.path} merges the adapter into the model" if adapter else said]
