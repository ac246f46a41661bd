"""The files of a bundle: described for its manifest, and checked against it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from et_pipeline.errors import UserError
from et_pipeline.manifest.document import FILE_NAME, Manifest
from et_pipeline.manifest.what import File


def describe_file(path: Path) -> File:
    """Size and SHA-256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return File(size=stream.tell(), sha256=digest.hexdigest())


def describe_files(folder: Path) -> dict[str, File]:
    """Size and SHA-256 of every file of a bundle folder except the manifest, sorted by name."""
    return {name: describe_file(folder / name) for name in file_sizes(folder) if name != FILE_NAME}


def file_sizes(folder: Path) -> dict[str, int]:
    """Size of every file below a folder, by name; sorted.

    A link or device is refused: what it leads to can change or never end.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{folder}: '{name}' is a link or a device, and a bundle holds plain files only.")
        sizes[name] = status.st_size
    return sizes


def check_files(folder: Path, manifest: Manifest) -> None:
    """Checks that a folder holds exactly the files of its manifest, each with its size and SHA-256.

    Raises:
        UserError: A file is missing, too many, truncated or altered (named).
    """
    check_sizes(file_sizes(folder), manifest, str(folder))
    for name, expected in manifest.files.items():
        found = describe_file(folder / name).sha256
        if found != expected.sha256:
            raise UserError(
                f"{folder}: '{name}' was altered: its SHA-256 is {found[:12]}…, and the manifest says "
                f"{expected.sha256[:12]}…."
            )


def check_sizes(sizes: Mapping[str, int], manifest: Manifest, where: str) -> None:
    """Checks names and sizes of a bundle's files (folder or archive) against its manifest."""
    for name, expected in manifest.files.items():
        if name not in sizes:
            raise UserError(f"{where}: '{name}' is missing, and the manifest lists it.")
        if sizes[name] != expected.size:
            what = "truncated" if sizes[name] < expected.size else "too long"
            raise UserError(
                f"{where}: '{name}' is {what}: it has {sizes[name]} bytes, and the manifest says {expected.size}."
            )
    for name in sorted(sizes):
        if name not in manifest.files and name != FILE_NAME:
            raise UserError(f"{where}: '{name}' is not listed in the manifest.")
