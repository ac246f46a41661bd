"""acquire: find or make the checkpoint, prove that its files are whole, read what it says about the model."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from et_pipeline import cache
from et_pipeline.architecture import check_context, layer_windows
from et_pipeline.checkpoints import auto_tokenizer, hub, tokenizer
from et_pipeline.checkpoints.facts import Facts, generation_warnings, read_facts, read_tokenizer
from et_pipeline.checkpoints.layout import INDEX, SINGLE, read_layout
from et_pipeline.checkpoints.reader import prepare as prepare_model
from et_pipeline.checkpoints.shards import CHECKSUMS, check_room
from et_pipeline.checkpoints.skeleton import config_warnings
from et_pipeline.checkpoints.source import BUILTIN
from et_pipeline.errors import UserError
from et_pipeline.manifest import TokenizerParity
from et_pipeline.models.pooling import FILES as POOLING_FILES
from et_pipeline.models.pooling import prompt_warnings
from et_pipeline.settings import Checkpoint, ExportForm, closest
from et_pipeline.worker import Tick, run_stage

log = logging.getLogger(__name__)

_PARTIAL = ".incomplete"  # huggingface_hub's own word for it
_GGUF_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_PATTERNS = (
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


@dataclass(frozen=True)
class Place:
    """Where a checkpoint that does not exist yet is made, and how that is shown.

    Attributes:
        root: the stage cache.
        logs: folder for what the converting process prints.
        tick: takes progress.
        wait: called once if another run makes the same checkpoint.
    """

    root: Path
    logs: Path
    tick: Tick = lambda done, total: None
    wait: Callable[[], None] = lambda: None


def prepare(checkpoint: Checkpoint, seed: int, place: Place) -> tuple[Path, dict[str, str]]:
    """The checkpoint's folder and the hashes of its files; one that was made here and then altered is made again.

    Raises:
        UserError: as `resolve` and `hash_files`.
    """
    folder = resolve(checkpoint, seed, place)
    try:
        return folder, hash_files(folder, place.tick)
    except UserError as error:
        if folder.parent not in (place.root / "random", place.root / "gguf"):
            raise
        log.warning("%s; building it again", error)
        with cache.locked(folder, place.wait):
            shutil.rmtree(folder, ignore_errors=True)
        folder = resolve(checkpoint, seed, place)
        return folder, hash_files(folder, place.tick)


def resolve(checkpoint: Checkpoint, seed: int, place: Place) -> Path:
    """Return the folder of the checkpoint: downloaded if it is a hub id, converted if a .gguf file, or made up.

    Raises:
        UserError: there is no such built-in model, folder, file or repository, or the disk has too little room.
    """
    source = checkpoint.source
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UserError(f"model.source={source} does not exist{closest(name, BUILTIN)}")
        return BUILTIN[name]
    if source == "random":
        return _random(checkpoint, seed, place)
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path's own raises for an unknown user
    if path.is_dir():
        return path.resolve()
    gguf = gguf_file(source)
    if gguf is not None:
        return _convert(gguf, place)
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise UserError(
            f"model.source={source} is neither a folder, nor a .gguf file, nor a hub id such as "
            "HuggingFaceTB/SmolLM2-135M"
        )
    return _download(source, checkpoint.revision, place)


def gguf_file(source: str) -> Path | None:
    """The path of a source that is a .gguf file, whether it exists or not; None if the source is anything else.

    Of a file in parts it is the first one's, as llama.cpp wants it.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path's own raises for an unknown user
    if path.suffix != ".gguf" or path.is_dir():
        return None
    return _gguf_parts(path.absolute())[0]  # not where a link leads: the name counts


def _gguf_parts(path: Path) -> list[Path]:
    """All parts of a GGUF file, by the name of one of them: name-00001-of-00003.gguf and so on."""
    found = _GGUF_PART.fullmatch(path.name)
    count = int(found[3]) if found else 0
    if found is None or not count:
        return [path]
    return [path.with_name(f"{found[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _random(checkpoint: Checkpoint, seed: int, place: Place) -> Path:
    from et_pipeline.checkpoints import random_weights  # not above: numpy takes a tenth of a second

    if not checkpoint.architecture:
        raise UserError(
            f"model.source={random_weights.SOURCE} needs model.architecture, the content of a config.json; "
            "choose a named model that has it, such as those of et-pipeline --help"
        )
    model = random_weights.RandomModel(architecture=checkpoint.architecture, seed=seed)
    key = model.model_dump()
    return _make("random", random_weights.__name__, {"model": model}, key, place)


def _convert(path: Path, place: Place) -> Path:
    from et_pipeline.checkpoints import gguf

    parts = _gguf_parts(path)
    for part in parts:
        if not part.is_file():
            beside = next((other for other in parts if other.is_file()), None)
            raise UserError(
                f"model.source={part} does not exist{f', and {beside.name} is useless without it' if beside else ''}"
            )
        gguf.check_magic(part)
    key = {"sha256": list(_sha256_files(path.parent, parts, place.tick).values())}
    file = gguf.GgufFile(path=str(path), more=tuple(str(part) for part in parts[1:]))
    return _make("gguf", gguf.__name__, {"file": file}, key, place)


def _make(kind: str, module: str, config: dict[str, BaseModel], key: dict[str, Any], place: Place) -> Path:
    """Let a process of its own fill a folder of the cache, unless it is there.

    The folder in which it works has a fixed name: a run that was killed left whole shards in it, and the next one goes
    on from them. A mistake leaves nothing.
    """
    libraries = cache.library_versions(("transformers",) if kind == "random" else ("transformers", "gguf"))
    key = {**key, "code": cache.code_version(module), "libraries": libraries}
    folder = place.root / kind / cache.digest(key)
    with cache.locked(folder, place.wait):
        part = folder.with_name(f"{folder.name}.part")
        if _is_whole(folder):
            return folder
        if folder.exists():
            log.warning("%s is not what it was when it was made (truncated or altered); building it again", folder)
            shutil.rmtree(part, ignore_errors=True)
            folder.rename(part)
        part.mkdir(exist_ok=True)
        try:
            place.logs.mkdir(parents=True, exist_ok=True)
            run_stage(module, {}, part, config, 0, place.logs / f"{kind}.log", place.tick)
        except (UserError, OSError):
            shutil.rmtree(part, ignore_errors=True)
            raise
        cache.publish(part, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether all shards have their length; their content is compared with the checksums when they are hashed."""
    try:
        read_layout(folder)
    except UserError:
        return False
    return (folder / CHECKSUMS).is_file()


def _download(repository: str, revision: str | None, place: Place) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    name = f"model.source={repository}"
    store = Path(constants.HF_HUB_CACHE).expanduser()
    wanted = list(_PATTERNS)
    with hub.one_sentence(name, revision, "a folder here and not "):
        try:
            listed = snapshot_download(
                repository, revision=revision, allow_patterns=wanted, tqdm_class=hub.quiet_bar(), dry_run=True
            )
        except DryRunError:  # the hub does not answer: what is here already may do
            listed = []
        missing = [(file.filename, file.commit_hash, file.file_size or 0) for file in listed if file.will_download]
        blobs = store / f"models--{repository.replace('/', '--')}" / "blobs"
        begun = sum(path.stat().st_size for path in blobs.glob(f"*{_PARTIAL}"))
        check_room(store, sum(size for _, _, size in missing) - begun, name, "HF_HUB_CACHE")
        for filename, commit, size in missing:
            if filename.endswith(".safetensors") and size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                _fetch_weights(repository, filename, commit, blobs, place)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, tqdm_class=hub.quiet_bar()))


def _fetch_weights(repository: str, filename: str, commit: str, blobs: Path, place: Place) -> None:
    """Download a file to where huggingface_hub's cache looks for it, going on where a killed run stopped.

    huggingface_hub itself begins such a file anew.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    url = hf_hub_url(repository, filename, revision=commit)
    metadata = get_hf_file_metadata(url, headers=headers)
    if metadata.etag is None or metadata.size is None:
        return
    total = metadata.size
    if metadata.location.split("/")[2] != url.split("/")[2]:  # a file store, which has its own signature in the address
        headers.pop("authorization", None)
    blob, part = blobs / metadata.etag, blobs / f"{metadata.etag}{_PARTIAL}"
    with cache.locked(place.root / "hub" / metadata.etag, place.wait):
        if blob.exists():
            return
        blobs.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > total:
            part.unlink()

        class Bar:
            """What http_get needs of a tqdm."""

            def __init__(self, **settings: Any) -> None:
                self.done = settings.get("initial", 0)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def update(self, count: float | None = 1) -> None:
                self.done += count or 0
                place.tick(int(self.done), total)

        with part.open("ab") as stream:
            http_get(
                metadata.location,
                stream,
                resume_size=stream.tell(),
                headers=headers,
                expected_size=total,
                tqdm_class=Bar,
            )
            stream.flush()
            os.fsync(stream.fileno())
        # A file of the large file storage is named by its sha256, any other one by a git hash.
        if len(metadata.etag) == 64 and cache.sha256_file(part) != metadata.etag:
            part.unlink()
            raise UserError(f"model.source={repository}: {filename} arrived damaged; the same command fetches it again")
        part.rename(blob)


def hash_files(folder: Path, tick: Tick) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint that the pipeline may read, by name.

    A `SHA256SUMS` file (the format of `sha256sum`) in the folder is checked.

    Raises:
        UserError: there are no weights in safetensors form, or a file is not what `SHA256SUMS` says.
    """
    paths = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
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
    hashes = _sha256_files(folder, paths, tick)
    sums = folder / CHECKSUMS
    if sums.is_file():
        for line in sums.read_text().splitlines():
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


def _sha256_files(folder: Path, paths: list[Path], tick: Tick) -> dict[str, str]:
    hashes = {}
    done, total = 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        checksum = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(1 << 24):
                checksum.update(piece)
                done += len(piece)
                tick(done, total)
        hashes[path.relative_to(folder).as_posix()] = checksum.hexdigest()
    return hashes


def glance(folder: Path, form: ExportForm) -> Facts:
    """Read and check what needs no library of models: most mistakes are found here, in a tenth of a second.

    Raises:
        UserError: a file is missing, broken or does not fit the others, or the context is longer than the model's.
    """
    facts = read_facts(folder)
    check_context(form.max_context, facts.max_position)
    return facts


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, form: ExportForm) -> dict[str, Any]:
    """Read and check all of the checkpoint but its weights; write `facts.json`, and the tokenizer for phones.

    Returns:
        `parameters`, and `warnings`: a sentence on each thing in the folder that is passed over, and on each that a
        runtime which phones have makes otherwise.

    Raises:
        UserError: as `glance`; or tensors do not fit the config, or phones would read the tokenizer otherwise.
    """
    folder = inputs["checkpoint"]
    facts = glance(folder, form)
    config = prepare_model(folder).model.config
    # As the family's own class has it, with what it fills in where config.json says nothing.
    facts = facts.model_copy(update={"windows": layer_windows(config.to_dict(), facts.layers)})
    warnings = [*unused_files(folder), *config_warnings(folder)]
    warnings += generation_warnings(folder) if facts.pooling is None else prompt_warnings(folder)
    warnings += auto_tokenizer.check(folder, read_tokenizer(folder), facts.chat, facts.pooling is not None)
    if facts.pooling is None:
        path = folder / tokenizer.FILE
        mended = tokenizer.mend(path, facts.vocab_size, out, facts.chat, facts.fed_bos_id)
        tokenizer.save(mended.content, out / tokenizer.FILE)
        warnings += [f"{path}: {sentence}" for sentence in mended.android]
        parity = TokenizerParity(
            runtime=tokenizer.runtime(), strings=mended.strings, mended=mended.sentences, android=mended.android
        )
        update = {"normalization": mended.normalization, "lstrip": mended.lstrip, "rstrip": mended.rstrip}
        facts = facts.model_copy(update={**update, "parity": parity})
    facts.write(out)
    tick(1, 1)
    return {"parameters": facts.parameters, "warnings": warnings}


def unused_files(folder: Path) -> list[str]:
    """Files beside the checkpoint's that a user may take for a part of it, a sentence for all of them."""
    read = {info.file for info in read_layout(folder).values()}
    found = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.name not in read
        and not any(path.match(pattern) for pattern in (*_PATTERNS, *_HARMLESS) if pattern != "*.safetensors")
    ]
    if INDEX in {path.name for path in folder.iterdir()} and SINGLE in read:
        found.append(INDEX)
    if not found:
        return []
    said = f"{folder} holds {', '.join(found)} beside the model, and nothing of that is used"
    adapter = any(name.startswith("adapter_") for name in found)
    return [f"{said}; merge the adapter into the model first (peft's merge_and_unload)" if adapter else said]
