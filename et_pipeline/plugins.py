"""What other packages add to this one, by entry points in their metadata.

| group | name | object |
|---|---|---|
| `et_pipeline.backends` | as in `backend=NAME` | a callable that makes a `backends.Backend` for a chip, or for None |
| `et_pipeline.forms` | the form's | a `forms.base.Form`, whose `backends` are those that it is for |
| `et_pipeline.families` | `model_type` of config.json | an `architecture.Family`; its module imports no torch on top |
| `et_pipeline.conf` | any | a package whose folder `conf/` has groups of options: `conf/recipe/NAME.yaml` |

A plug-in adds and replaces nothing: names of this package's own come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from et_pipeline.errors import UserError

Group = Literal["backends", "forms", "families", "conf"]


@cache
def installed(group: Group) -> tuple[EntryPoint, ...]:
    """All entry points of a group; reading them takes some 20 ms."""
    return tuple(entry_points(group=f"et_pipeline.{group}"))


def names(group: Group) -> list[str]:
    """What there is of a group."""
    return sorted({point.name for point in installed(group)})


def load(group: Group, name: str, kind: Any, take: Callable[[Any], Any] = lambda found: found) -> Any:
    """The object that another package has for a name; None if there is none.

    Args:
        group: where to look.
        name: what for.
        kind: class of the object.
        take: makes it from what the entry point names.

    Raises:
        UserError: the package is broken; the sentence names it.
    """
    point = _find(group, name)
    if point is None:
        return None
    try:
        found = take(point.load())
    except Exception as error:
        raise _broken(point, f"it cannot be loaded ({type(error).__name__}: {error})") from error
    if not isinstance(found, kind):
        raise _broken(point, f"{point.value} is no {kind.__name__}")
    return found


def folders() -> list[Path]:
    """The folders with options of all packages.

    Raises:
        UserError: a package has none.
    """
    found = []
    for point in installed("conf"):
        folder = _package(point) / "conf"
        if not folder.is_dir():
            raise _broken(point, f"{point.value} has no folder conf")
        found.append(folder)
    return found


def versions(used: Iterable[tuple[Group, str]]) -> dict[str, str]:
    """Version and hash of the code of each distribution that has one of these; names of our own have none.

    The hash is for who works on a plug-in: its version stays, and a stage's result is not what it was.
    """
    from et_pipeline.cache import digest, sha256_file

    found = {}
    for group, name in used:
        point = _find(group, name)
        if point is not None:
            place = _package(point)
            sources = [place] if place.is_file() else sorted(place.rglob("*.py"))
            code = digest([sha256_file(source) for source in sources])
            found[f"{_distribution(point)} {place.name}"] = f"{point.dist.version if point.dist else ''} {code}"
    return found


def _find(group: Group, name: str) -> EntryPoint | None:
    points = [point for point in installed(group) if point.name == name]
    if len(points) > 1:
        owners = " and ".join(sorted(map(_distribution, points)))
        raise UserError(f"{owners} both have {name!r} of et_pipeline.{group}; uninstall one of them")
    return points[0] if points else None


def _package(point: EntryPoint) -> Path:
    """The folder, or the one file, of the package that an entry point is in."""
    spec = find_spec(point.module.partition(".")[0])
    if spec is None or spec.origin is None:
        raise _broken(point, f"{point.module} is not installed")
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _broken(point: EntryPoint, why: str) -> UserError:
    owner = _distribution(point)
    return UserError(f"the plug-in {owner} has {point.name!r} of {point.group}, but {why}; mend or uninstall {owner}")
