"""What the parts of a manifest are made of: their base class, and kinds of values that several have."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_NAME_BYTES = 240  # what every file system takes


def check_name(name: str) -> str:
    """Returns a file's name inside a bundle if it is safe on every system: relative, `/` between parts, no `..`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{name[:80]!r} is not a plain relative path")
    if "\\" in name or PureWindowsPath(name).drive:
        raise ValueError(f"{name[:80]!r} is not a plain relative path with '/' between its parts")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the path '{name[:80]}…' is longer than {MAX_NAME_BYTES} bytes")
    return name


FileName = Annotated[str, AfterValidator(check_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Model(BaseModel):
    """Base of all parts: immutable, no unknown keys, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
