"""Gradle's version catalog, in the one way of writing it that this build reads."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts import BuildError

CATALOG = Path("gradle", "libs.versions.toml")
RUNTIME = "executorch"  # its alias
SECTIONS = {"versions", "libraries", "plugins"}


def read_catalog(root: Path) -> Mapping[str, Any]:
    """The catalog of a project.

    Raises:
        BuildError: It is no TOML, or writes an entry in another of Gradle's ways; the message names it.
    """
    try:
        catalog = tomllib.loads((root / CATALOG).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(f"{CATALOG} is no TOML in UTF-8: {error}.") from error
    wrong = sorted(SECTIONS ^ catalog.keys())
    if wrong:
        has = "has" if wrong[0] in catalog else "lacks"
        raise BuildError(f"{CATALOG} {has} [{wrong[0]}]: this build reads [versions], [libraries] and [plugins].")
    for section, entries in catalog.items():
        if not isinstance(entries, dict):
            raise BuildError(f"{CATALOG} has {section} = {entries!r}: write a table, [{section}].")
    versions = catalog["versions"]
    for name, version in versions.items():
        _check(_text(version), "versions", name, version, '"1.2.3"')
    for alias, entry in catalog["libraries"].items():
        _check(_is_library(entry), "libraries", alias, entry, '{ module = "group:name", version.ref = "some" }')
        _check_version(versions, "libraries", alias, entry)
    for alias, entry in catalog["plugins"].items():
        right = isinstance(entry, dict) and entry.keys() == {"id", "version"} and _text(entry["id"])
        _check(right and _is_ref(entry["version"]), "plugins", alias, entry, '{ id = "some.id", version.ref = "some" }')
        _check_version(versions, "plugins", alias, entry)
    if RUNTIME not in catalog["libraries"]:
        raise BuildError(f"{CATALOG} lacks {RUNTIME} in [libraries]: under that name this build takes the runtime.")
    return catalog


def _check(right: bool, section: str, name: str, found: Any, works: str) -> None:
    if not right:
        raise BuildError(
            f"{CATALOG} has in [{section}] {name} = {found!r}, which this build does not read: write {works}."
        )


def _check_version(versions: Mapping[str, Any], section: str, alias: str, entry: Mapping[str, Any]) -> None:
    version = entry.get("version")
    if isinstance(version, dict) and version["ref"] not in versions:
        raise BuildError(
            f"{CATALOG} has in [{section}] {alias} with version.ref = {version['ref']!r}, which is not in [versions]: "
            f"there are {', '.join(sorted(versions))}."
        )


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[^\s:]+", value))


def _is_ref(version: Any) -> bool:
    return isinstance(version, dict) and version.keys() == {"ref"} and _text(version["ref"])


def _is_library(entry: Any) -> bool:
    """A library without a version has that of a BOM."""
    if not isinstance(entry, dict) or not {"module"} <= entry.keys() <= {"module", "version"}:
        return False
    parts = entry["module"].split(":") if isinstance(entry["module"], str) else []
    return len(parts) == 2 and all(map(_text, parts)) and _is_version(entry.get("version", "1"))


def _is_version(version: Any) -> bool:
    return _text(version) or _is_ref(version)
