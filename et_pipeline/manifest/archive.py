"""A bundle as one `.zip`: looked into, unpacked, packed.

A zip comes from anywhere, so everything about it is checked before a byte is written: names, kinds, sizes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can hold
CHUNK = 1 << 20
MAX_RATIO = 100  # weights hardly compress; text compresses up to about 20 times
# What zipfile raises on damaged archives, depending on which byte is wrong.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


def unpack(path: Path, folder: Path) -> bundle.Manifest:
    """Unpacks a zip into an empty folder and checks every file's hash.

    Raises:
        UserError: It is no bundle, or a file is missing, altered, too many or unsafe.
    """
    with _open_zip(path) as archive:
        manifest, members = _inspect_zip(archive, path)
        _extract(archive, members, manifest, folder, path)
    return manifest


def peek(path: Path) -> bundle.Manifest:
    """The manifest of a bundle, without reading or unpacking its other files.

    Names and sizes are compared, hashes are not.

    Raises:
        UserError: It is no bundle, or a file is missing, of another size, too many or unsafe.
    """
    if path.is_dir():
        manifest = bundle.read(path)
        bundle.check_sizes(bundle.file_sizes(path), manifest, str(path))
        return manifest
    with _open_zip(path) as archive:
        return _inspect_zip(archive, path)[0]


def write_zip(folder: Path, out: Path) -> None:
    """Packs a bundle folder into one file, whole or not at all; the same folder always gives the same bytes.

    Nothing is compressed: weights hardly shrink, and an app can read a stored file in place.

    Raises:
        UserError: The folder is no whole bundle, or `out` cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the bundle's folder.")
    manifest = bundle.read(folder)
    bundle.check_files(folder, manifest)
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} is inside the bundle {folder}: give a place outside it.")
    temporary = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        if out.is_dir() or not out.parent.is_dir():
            raise UserError(f"{out} cannot be written: give a file name in an existing folder.")
        with temporary.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted([*manifest.files, bundle.FILE_NAME]):
                    entry = zipfile.ZipInfo(name, EPOCH)
                    entry.create_system = 3  # Unix, wherever this runs
                    entry.external_attr = (stat.S_IFREG | 0o644) << 16
                    source = folder / name
                    entry.file_size = source.stat().st_size  # zipfile decides by it whether it needs 64-bit fields
                    with source.open("rb") as reader, archive.open(entry, "w") as writer:
                        shutil.copyfileobj(reader, writer, CHUNK)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}).") from error
    finally:
        with suppress(OSError):  # where nothing can be written there is none either
            temporary.unlink()


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():  # a pipe, which would be waited for
        raise UserError(f"{path} is neither a bundle folder nor a zip file.")
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise UserError(f"{path} is neither a bundle folder nor a zip file ({error}).") from error
    with archive:
        yield archive


def _inspect_zip(archive: zipfile.ZipFile, path: Path) -> tuple[bundle.Manifest, list[zipfile.ZipInfo]]:
    """Checks all that a zip's directory says, and returns the manifest and the files to unpack."""
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        # `filename` is what zipfile made of it: cut at a zero byte, separators replaced.
        is_folder = entry.orig_filename.endswith("/")
        name = entry.orig_filename.removesuffix("/")
        try:
            bundle.check_name(name)
        except ValueError as error:
            raise UserError(f"{path} is unsafe: {error}.") from error
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
            raise UserError(f"{path} is unsafe: '{name}' is a link or a device, and a bundle holds plain files only.")
        if entry.flag_bits & 0x1:
            raise UserError(f"{path}: '{name}' is encrypted: pack the bundle without a password.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: '{name}' is compressed in an unusual way: pack it with 'et-bundle zip'.")
        if is_folder:
            continue
        if name in members:
            raise UserError(f"{path} is unsafe: it holds '{name}' twice.")
        members[name] = entry
    if bundle.FILE_NAME not in members:
        raise UserError(
            f"{path} is no bundle: it has no {bundle.FILE_NAME} at its top; pack a bundle with 'et-bundle zip'."
        )
    head = members.pop(bundle.FILE_NAME)
    if head.file_size > bundle.MAX_MANIFEST_BYTES:
        raise UserError(f"{path}: {bundle.FILE_NAME} has {head.file_size} bytes, more than any manifest.")
    manifest = bundle.parse(b"".join(_blocks(archive, head, path)), f"{path}/{bundle.FILE_NAME}")
    bundle.check_sizes({name: entry.file_size for name, entry in members.items()}, manifest, str(path))
    return manifest, list(members.values())


def _extract(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], manifest: bundle.Manifest, folder: Path, path: Path
) -> None:
    """Unpacks the files of a manifest, each checked against its hash on the way."""
    total = sum(entry.file_size for entry in members)
    if total > MAX_RATIO * path.stat().st_size:
        raise UserError(f"{path} is unsafe: it would unpack to {total} bytes, over {MAX_RATIO} times its own size.")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(
            f"{path} needs {total} bytes in {folder.parent}, and {free} are free: set TMPDIR to a place with more."
        )
    head = archive.getinfo(bundle.FILE_NAME)
    (folder / bundle.FILE_NAME).write_bytes(b"".join(_blocks(archive, head, path)))
    for entry in members:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as writer:
            for block in _blocks(archive, entry, path):
                digest.update(block)
                writer.write(block)
        if digest.hexdigest() != manifest.files[entry.filename].sha256:
            raise UserError(
                f"{path}: '{entry.filename}' was altered: its SHA-256 is {digest.hexdigest()[:12]}…, and the manifest "
                f"says {manifest.files[entry.filename].sha256[:12]}…."
            )


def _blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """The content of a zip's file, piece by piece; zipfile gives no more than the declared size."""
    try:
        with archive.open(entry) as stream:
            while block := stream.read(CHUNK):
                yield block
    except DAMAGE as error:
        raise UserError(f"{path}: '{entry.filename}' is damaged ({error}).") from error
