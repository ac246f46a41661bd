"""A hook of mkdocs: what the site says about settings, commands and the manifest is read from the code.

A page has a marker such as `<!-- settings -->` in its place. Links from a page into the repository (the README of the
app, its pictures) work on the site too: what they lead to becomes part of it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from hydra import compose, initialize_config_dir
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from et_pipeline import CONF
from et_pipeline.cli.bundle import app
from et_pipeline.manifest import SCHEMA_PATH
from et_pipeline.settings import Frozen, Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "android_demo/README.md": "android.md",
    "docs/notebooks/quickstart.ipynb": "quickstart.ipynb",
}
PICTURES = ROOT / "android_demo" / "app" / "src" / "test" / "screenshots" / "phone-light"
GROUPS = ("model", "recipe", "backend", "device", "task", "experiment")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in pages and pictures that lie elsewhere in the repository."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the page's markers, and lead its links into the repository to what was taken in."""
    for name, make in MADE.items():
        text = text.replace(f"<!-- {name} -->", make()) if f"<!-- {name} -->" in text else text
    here = Path(page.file.abs_src_path or "").parent
    known = {each.abs_src_path: each.src_uri for each in files}

    def lead(match: re.Match[str]) -> str:
        name = known.get(os.path.normpath(here / match[1]))
        return f"]({os.path.relpath(name, Path(page.file.src_uri).parent)}" if name else match[0]

    return re.sub(r"\]\(([^)#:]+)", lead, text)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(content: Any) -> str:
    return str(content).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def settings() -> str:
    """Every key: what it takes, what it is when nothing is said, what it means."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        default = load_settings(compose("config"))
    comments = _comments()
    parts = []
    for prefix, kind, value in _parts(Settings, default):
        rows = []
        for name, field in kind.model_fields.items():
            if _inner(field.annotation) is None:
                key = f"{prefix}.{name}".lstrip(".")
                given = _value(getattr(value, name, field.default if not field.is_required() else ...))
                about = field.description or comments.get(key, "")
                rows.append([f"`{key}`", _takes(field.annotation), given, about])
        docs = [
            inspect.cleandoc(each.__doc__ or "")
            for each in kind.__mro__
            if issubclass(each, Frozen) and each is not Frozen
        ]
        about = " ".join(each for each in docs if not each.startswith("The same"))
        parts.append(f"## {prefix or 'run'}\n\n{about}\n\n" + table(["key", "takes", "default", "what it is"], rows))
    return "\n\n".join(parts)


def _comments() -> dict[str, str]:
    """What the config tree says of a key beside its value."""
    found = {}
    for file, prefix in (("config.yaml", ()), ("recipe/8da4w.yaml", ("recipe",)), ("backend/qnn.yaml", ("backend",))):
        path: list[str] = []
        for line in (CONF / file).read_text(encoding="utf-8").splitlines():
            parsed = re.match(r"( *)(\w+):(?:.*? # (.*))?", line)
            if parsed:
                path[len(parsed[1]) // 2 :] = [parsed[2]]
                found[".".join((*prefix, *path))] = parsed[3] or ""
    return found


def _parts(kind: type[BaseModel], value: Any, prefix: str = "") -> Iterator[tuple[str, type[BaseModel], Any]]:
    """The classes of the settings with the keys that lead to them."""
    yield prefix, kind, value
    for name, field in kind.model_fields.items():
        inner = _inner(field.annotation)
        if inner is not None:
            several = get_origin(field.annotation) is dict
            key = f"{prefix}.{name}".lstrip(".") + (".NAME" if several else "")
            yield from _parts(inner, None if several else getattr(value, name, None), key)


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The class of settings within an annotation."""
    kinds = [annotation, *get_args(annotation)]
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _takes(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _takes(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join("null" if each is type(None) else _takes(each) for each in get_args(annotation))
    names = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path", tuple: "list"}
    return names.get(get_origin(annotation) or annotation, "mapping")


def _value(value: Any) -> str:
    if value is ...:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"`{each}`" for each in value)
    plain = value.replace(str(Path.home()), "~") if isinstance(value, str) else value
    plain = str(value).replace(str(Path.home()), "~") if isinstance(value, Path) else plain
    return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"


def options() -> str:
    """Each group's options, with what their files begin with."""
    parts = []
    for group in GROUPS:
        rows = []
        for path in sorted((CONF / group).glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            head = re.match(r"(# @package.*\n)?((?:#.*\n)*)", text)
            about = " ".join(line.lstrip("# ") for line in head[2].splitlines()) if head else ""
            rows.append([f"`{path.stem}`", about or yaml.safe_load(text)["name"]])
        parts.append(f"### {group}=\n\n" + table(["option", ""], rows))
    return "\n\n".join(parts)


def commands() -> str:
    """Each subcommand of et-bundle with its arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        context: Any = group.make_context("et-bundle", [name], resilient_parsing=True)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        rows = []
        for each in command.params:
            plain = each.opts[0] if each.default is True else each.default
            default = "" if plain in (None, False) or each.required else f"`{plain}`"
            shown = " / ".join([*each.opts, *each.secondary_opts]) if each.param_type_name == "option" else each.metavar
            rows.append([f"`{shown}`", each.help or "", default])
        parts.append(
            f"## et-bundle {name}\n\n`et-bundle {usage}`\n\n{command.help}\n\n{command.epilog}\n\n"
            + table(["", "", "default"], rows)
        )
    return "\n\n".join(parts)


def manifest() -> str:
    """Each object of the manifest with its fields."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    parts = []
    for name, kind in {"Manifest": schema, **schema["$defs"]}.items():
        required = kind.get("required", [])
        rows = []
        for field, about in kind.get("properties", {}).items():
            rows.append(
                [f"`{field}`", _json_type(about), "yes" if field in required else "", about.get("description", "")]
            )
        parts.append(f"## {name}\n\n{kind.get('description', '')}\n\n" + table(["field", "type", "required", ""], rows))
    return "\n\n".join(parts)


def _json_type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(_json_type(each) for each in about["anyOf"])
    if "enum" in about or "const" in about:
        return ", ".join(f"`{json.dumps(each)}`" for each in about.get("enum", [about.get("const")]))
    if "items" in about:
        return f"list of {_json_type(about['items'])}"
    if isinstance(about.get("additionalProperties"), dict):
        return f"by name: {_json_type(about['additionalProperties'])}"
    return str(about.get("type", "any"))


MADE: dict[str, Callable[[], str]] = {
    "settings": settings,
    "options": options,
    "commands": commands,
    "manifest": manifest,
}
