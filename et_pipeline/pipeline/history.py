"""`runs.jsonl` beside the bundles: a line for each bundle that was made there, also where a later one took its name.

Its fields are the manifest's by their names with dots between, so that a table of them is one call of pandas or Arrow.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from et_pipeline import cache
from et_pipeline.manifest import Manifest

FILE = "runs.jsonl"
_PARTS = {"what", "memory", "quality", "speed", "embedding", "stages"}
_LEFT_OUT: dict[str, Any] = {
    "what": {"source": {"files"}, "adaptation": {"__all__": {"files"}}, "settings": {"task": {"use_cases"}}},
    "quality": {"gate": {"thresholds", "checks"}},
    "embedding": {"samples"},
}


def note(folder: Path, manifest: Manifest, reused: Sequence[str], root: Path) -> None:
    """Add a line about a bundle; runs that end at the same time wait for each other.

    Args:
        folder: the bundle's.
        manifest: its manifest, whose main program the figures are of.
        reused: the stages whose results were there.
        root: the stage cache.
    """
    path = folder.parent / FILE
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = manifest.model_dump(mode="json", include=_PARTS, exclude=_LEFT_OUT)
    line = {"at": now, "bundle": folder.name, "reused": " ".join(reused), **dict(_flat(content, ""))}
    with cache.locked(root / "bundle" / cache.digest(str(path))):
        before = path.read_bytes() if path.exists() else b""  # whatever others did to it stays
        if before and not before.endswith(b"\n"):
            before += b"\n"
        temporary = path.with_name(f"{FILE}.tmp")
        temporary.write_bytes(before + json.dumps(line, ensure_ascii=False).encode() + b"\n")
        temporary.replace(path)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
