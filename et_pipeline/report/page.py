"""HTML pages of one file each: made from a template, with one stylesheet, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def render(template: str, scripts: Sequence[str] = (), **content: Any) -> str:
    """A page; whatever comes from a manifest is escaped.

    Args:
        template: a file's name in this folder.
        scripts: what the page may run; a browser runs no other, as their hashes are in the page's policy.
        content: what the template shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {}  # in the order that is given
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    policy = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    return environment.get_template(template).render(scripts=list(map(Markup, scripts)), policy=policy, **content)


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write files, each whole or not at all, in this order."""
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
