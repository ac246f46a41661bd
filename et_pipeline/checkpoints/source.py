"""Where a checkpoint comes from: a folder, the hub, a GGUF file, random weights; in the end it is a folder."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from et_pipeline import cache, tiny_assistant
from et_pipeline.checkpoints import hub
from et_pipeline.checkpoints.files import hash_files
from et_pipeline.checkpoints.layout import read_layout
from et_pipeline.checkpoints.place import Place
from et_pipeline.checkpoints.shards import CHECKSUMS
from et_pipeline.errors import UserError
from et_pipeline.settings import RANDOM, Checkpoint, closest
from et_pipeline.worker import run_stage

log = logging.getLogger(__name__)

_GGUF_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_BUILTIN = "builtin:"
BUILTIN = {"tiny_assistant": tiny_assistant.CHECKPOINT}


def prepare(checkpoint: Checkpoint, seed: int, place: Place) -> tuple[Path, dict[str, str]]:
    """The checkpoint's folder and the hashes of its files; one that was made here and then altered is made again.

    Raises:
        UserError: as `resolve` and `hash_files`.
    """
    folder = resolve(checkpoint, seed, place)
    try:
        return folder, hash_files(folder, place.tick)
    except UserError as error:
        if folder.parent not in (place.root / RANDOM, place.root / "gguf"):
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
    if source == RANDOM:
        return _random(checkpoint, seed, place)
    here, gguf = _here(source), gguf_file(source)
    if here is not None:
        return here
    if gguf is not None:
        return _convert(gguf, place)
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise UserError(
            f"model.source={source} is neither a folder, nor a .gguf file, nor a hub id such as "
            "HuggingFaceTB/SmolLM2-135M"
        )
    return hub.download(source, checkpoint.revision, place)


def _here(source: str) -> Path | None:
    """The folder of a source that is built in, or is a folder itself."""
    if not source.startswith(_BUILTIN):
        path = _path(source)
        return path.resolve() if path.is_dir() else None
    name = source.removeprefix(_BUILTIN)
    if name not in BUILTIN:
        raise UserError(f"model.source={source} does not exist{closest(name, BUILTIN)}")
    return BUILTIN[name]


def _path(source: str) -> Path:
    return Path(os.path.expanduser(source))  # noqa: PTH111  Path's own raises for an unknown user


def gguf_file(source: str) -> Path | None:
    """The path of a source that is a .gguf file, whether it exists or not; None if the source is anything else.

    Of a file in parts it is the first one's, as llama.cpp wants it.
    """
    path = _path(source)
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
            f"model.source={RANDOM} needs model.architecture, the content of a config.json; "
            "choose a named model that has it, such as those of et-pipeline --help"
        )
    model = random_weights.RandomModel(architecture=checkpoint.architecture, seed=seed, sentence=checkpoint.sentence)
    key = model.model_dump(exclude_none=True)
    return _make(RANDOM, random_weights.__name__, {"model": model}, key, place)


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
    key = {"sha256": list(cache.sha256_files(path.parent, parts, place.tick).values())}
    file = gguf.GgufFile(path=str(path), more=tuple(str(part) for part in parts[1:]))
    return _make("gguf", gguf.__name__, {"file": file}, key, place)


def _make(kind: str, module: str, config: dict[str, BaseModel], key: dict[str, Any], place: Place) -> Path:
    """Let a process of its own fill a folder of the cache, unless it is there.

    The folder in which it works has a fixed name: a run that was killed left whole shards in it, and the next one goes
    on from them. A mistake leaves nothing.
    """
    libraries = cache.library_versions(("transformers",) if kind == RANDOM else ("transformers", "gguf"))
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


def on_hub(source: str) -> bool:
    """Whether that is a repository's name, and not a folder's here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).is_dir()


def config_folder(checkpoint: Checkpoint) -> Path:
    """A folder with the checkpoint's config.json; of a repository on the hub nothing else is downloaded.

    Raises:
        UserError: there is none.
    """
    source = checkpoint.source
    if source == RANDOM or source.endswith(".gguf"):
        raise UserError(f"model.source={source} has no config.json; mode=plan needs its content in model.architecture")
    here = _here(source)
    if here is None and not on_hub(source):
        raise UserError(f"model.source={source} is neither a folder nor a hub id such as HuggingFaceTB/SmolLM2-135M")
    return here or hub.download_config(source, checkpoint.revision)
