"""Reading and writing `manifest.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from et_pipeline.errors import UserError
from et_pipeline.manifest.document import FILE_NAME, FORMAT, READABLE, VERSION, Manifest

MAX_MANIFEST_BYTES = 16 * 2**20  # far above any real one; a reader must not be made to load gigabytes of JSON


def write(manifest: Manifest, folder: Path) -> Path:
    """Writes `manifest.json` into a bundle folder, whole or not at all, in today's version, and returns its path."""
    path = folder / FILE_NAME
    temporary = folder / f"{FILE_NAME}.tmp"
    text = json.dumps({**manifest.model_dump(mode="json"), "version": VERSION}, indent=2, ensure_ascii=False) + "\n"
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


def read(path: Path) -> Manifest:
    """Reads a manifest: a bundle folder or the JSON file itself.

    Raises:
        UserError: It is missing, no JSON, of an unknown version, or a field is wrong (named).
    """
    if path.is_dir():
        path = path / FILE_NAME
        if not path.is_file():
            raise UserError(f"{path.parent} is no bundle: it has no {FILE_NAME}.")
    elif path.exists() and not path.is_file():  # a pipe, which would be waited for
        raise UserError(f"{path} is no file.")
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise UserError(f"{path} has {size} bytes, and no manifest is larger than {MAX_MANIFEST_BYTES}.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> Manifest:
    """The manifest in some bytes; `name` says in messages where they came from."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no valid JSON ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = repr(content.get("format")) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(f"{name} is no bundle manifest: 'format' must be '{FORMAT}', found {found}.")
    version = content.get("version")
    if type(version) is not int or version not in READABLE:  # True is 1 as well
        raise UserError(
            f"{name} has version {version!r}, and this et_pipeline reads versions 1 to {VERSION}: "
            "install the et_pipeline that made the bundle, or make the bundle again."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{name}: field '{field}' is wrong: {message}{more}.") from error
