"""Where text comes from: a file, a folder, a data set on the hub, or this package's own generator.

Calibration and evaluation take the same sources. A source is resolved and checked before any stage runs; a stage gets
the path, and the content's hash is part of its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from et_pipeline import host
from et_pipeline.checkpoints import hub
from et_pipeline.errors import UserError
from et_pipeline.settings import closest, first_line

BUILTIN = "builtin:tiny_assistant"
SUFFIXES = (".txt", ".md")  # what counts in a folder
COLUMN = "text"
_HUB = "hub:"


def resolve(key: str, source: str) -> Path | None:
    """Find a source's files, download those of a data set, and see that they hold text.

    Args:
        key: the setting that names it, for messages.
        source: `builtin:tiny_assistant`, a text file, a folder of them, or `hub:<repository>[:<config>[:<split>]]`.

    Returns:
        The file, the folder, or the data set's folder in the hub's cache; None for the built-in text.

    Raises:
        UserError: it does not exist, is not text in UTF-8, or is empty; nothing is installed that reads it.
    """
    if source.startswith("builtin:"):
        if source != BUILTIN:
            raise UserError(f"{key}={source} does not exist{closest(source, [BUILTIN])}")
        return None
    path = _download(key, source) if source.startswith(_HUB) else host.expanded(Path(source), f"{key}=").resolve()
    if not any(document.strip() for document in documents(key, source, path)):
        raise UserError(f"{key}={source} is empty; give a text")
    return path


def documents(key: str, source: str, path: Path) -> Iterator[str]:
    """The texts of a resolved source that is not built in, as they are: each file, or each row of a data set.

    Raises:
        UserError: a file is not text in UTF-8, or a data set has no column of texts.
    """
    for file in files(key, source, path):
        if file.suffix == ".parquet" and source.startswith(_HUB):
            yield from _rows(key, source, file)
        else:
            yield _read(f"{key}={file}", file)


def check_ids(key: str, source: str, ids: Sequence[int], vocabulary: int) -> None:
    """Refuse token ids that a model does not have; the runtime ends the whole process on one.

    Raises:
        UserError: names the first one.
    """
    outside = next((token for token in ids if token >= vocabulary), None)
    if outside is not None:
        raise UserError(
            f"{key}={source} becomes token {outside}, but the model's vocab_size is {vocabulary}; tokenizer.json "
            "belongs to another model"
        )


def files(key: str, source: str, path: Path) -> list[Path]:
    """All that is read of a resolved source that is not built in, in order.

    Raises:
        UserError: there is nothing.
    """
    if source.startswith(_HUB):
        names = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]
        return [path / name for name in _choose(key, source, names)]
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise UserError(f"{key}={source} is a folder without {' and '.join(SUFFIXES)} files; give one with texts")
    return found


def _read(name: str, file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text file in UTF-8 (byte {error.start} is none)") from error
    except OSError as error:
        raise UserError(
            f"{name} cannot be read ({error.strerror}); give a text file, a folder of them, or {BUILTIN}"
        ) from error
    if "\0" in text:
        raise UserError(f"{name} is a binary file; give one with text")
    return text


def _rows(key: str, source: str, file: Path) -> Iterator[str]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if COLUMN not in columns:
            raise UserError(f"{key}={source} has no column '{COLUMN}', only {', '.join(columns)}; give one of texts")
        for batch in table.iter_batches(columns=[COLUMN]):
            yield from (str(value) for value in batch.column(0).to_pylist() if value is not None)
    except (ArrowException, OSError) as error:
        raise UserError(f"{key}={source}: {file} is not a readable Parquet file ({first_line(error)})") from error


def _download(key: str, source: str) -> Path:
    if find_spec("pyarrow") is None:
        raise UserError(
            f"{key}={source} is read by pyarrow, which is not installed: pip install 'et-pipeline[datasets]'"
        )
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import DryRunError, RepositoryNotFoundError

    repository = source.split(":")[1]
    with hub.one_sentence(f"{key}={source}"):
        try:
            listed = snapshot_download(
                repository, repo_type="dataset", allow_patterns="*.parquet", tqdm_class=hub.quiet_bar(), dry_run=True
            )
            names = [file.filename for file in listed]
        except DryRunError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):  # as gated ones are
                raise error.__cause__ from None
            # The hub does not answer: what is here already may do.
            names = [file.path for file in get_cached_repo_tree(repository, repo_type="dataset")]
        wanted = _choose(key, source, [name for name in names if name.endswith(".parquet")])
        folder = snapshot_download(repository, repo_type="dataset", allow_patterns=wanted, tqdm_class=hub.quiet_bar())
    return Path(folder)


def _choose(key: str, source: str, names: list[str]) -> list[str]:
    """The Parquet files of the configuration and the split that a source names, in order.

    Raises:
        UserError: it names none, or leaves open which.
    """
    _, repository, *asked = source.split(":")
    parts: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        parts.setdefault(_config_and_split(name), []).append(name)
    found = [part for part in parts if part[: len(asked)] == tuple(asked)]
    if len(found) != 1:
        what = "leaves open which part is meant" if found else "does not exist"
        choices = [":".join((_HUB[:-1], repository, *part)) for part in found or parts]
        raise UserError(
            f"{key}={source} {what}{closest(source, choices)}"
            if parts
            else f"{key}={source} has no Parquet files on the hub; give a data set that has some"
        )
    return parts[found[0]]


def _config_and_split(name: str) -> tuple[str, str]:
    """What a Parquet file of a data set belongs to, by its place: `<config>/<split>-00000-of-00001`, `<split>`, …"""
    path = PurePosixPath(name)
    folders, split = list(path.parts[:-1]), re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", path.stem)
    if split.isdigit() and folders:  # <config>/<split>/0000.parquet, as the hub itself converts
        split = folders.pop()
    return "/".join(folder for folder in folders if folder != "data") or "default", split
