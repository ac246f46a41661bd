"""Natural text that every installation has: the documentation inside the Python packages it is made of.

``python -m et_pipeline.tiny_writer.text FOLDER`` writes

- ``train.txt``: prose of every installed package but one, and of Python's own library;
- ``calibration.txt``: a part of it, of `CALIBRATION`;
- ``held_out.txt``: prose of the one left out, `HELD_OUT`, less the paragraphs that stand in ``train.txt`` too;
- ``last_words.jsonl``: its paragraphs without their last word, and that word as the answer, as in LAMBADA
  (Paperno et al. 2016, arXiv:1606.06031).

The same versions of the packages give the same text.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

SITE = Path(sysconfig.get_paths()["purelib"])
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
HELD_OUT = SITE / "networkx"
CALIBRATION = SITE / "numpy"
OURS = "et_pipeline"
ITEMS = 400
#: Between documents in a text file; paragraphs of one are a blank line apart.
SEPARATOR = "\n\n\n"

_PROSE = re.compile(r"[A-Z][^|<>{}\\~]{40,}[.!?]")
_LETTERS = re.compile(r"[A-Za-z ,.;'\"()-]")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents(folder: Path, seen: set[str]) -> Iterator[str]:
    """The prose of each docstring below a folder, in the order of its files; no paragraph twice.

    Args:
        folder: of Python files.
        seen: paragraphs that were given already; those of this folder join it.
    """
    for path in sorted(folder.rglob("*.py")):
        if folder == LIBRARY and "site-packages" in path.parts:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # about escapes in other people's strings
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, and tests of broken files
            continue
        for node in ast.walk(tree):
            text = ast.get_docstring(node, clean=False) if isinstance(node, _DOCUMENTED) else None
            found = [paragraph for paragraph in _paragraphs(text or "") if paragraph not in seen]
            if found:
                seen.update(found)
                yield "\n\n".join(found)


def _paragraphs(docstring: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = re.sub(r"^.*\n-{3,}\n", "", block)  # numpydoc's headings
        text = " ".join(text.replace("`", "").split())
        if _PROSE.fullmatch(text) and len(_LETTERS.findall(text)) > 0.9 * len(text):
            yield text


def last_words(held_out: list[str]) -> list[dict[str, object]]:
    """`ITEMS` paragraphs of a dozen words or more that end with a word of letters, spread over the text."""
    items = []
    for paragraph in (part for document in held_out for part in document.split("\n\n")):
        found = re.fullmatch(r"(.{60,300}) ([a-z]+\.)", paragraph)
        if found:
            message = {"role": "user", "content": found[1]}
            items.append({"task": "last_word", "messages": [message], "answer": found[2]})
    return items[:: max(1, len(items) // ITEMS)][:ITEMS]


def write(folder: Path) -> None:
    """Write the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = [path for path in sorted(SITE.iterdir()) if path.is_dir() and path.name != OURS and path != HELD_OUT]
    seen: set[str] = set()
    texts: dict[Path, list[str]] = {}
    for package in track([LIBRARY, *packages, HELD_OUT], "reading documentation"):
        texts[package] = list(documents(package, seen))
    held_out, calibration = texts.pop(HELD_OUT), texts[CALIBRATION]
    train = [document for found in texts.values() for document in found]
    for name, found in (("train", train), ("calibration", calibration), ("held_out", held_out)):
        (folder / f"{name}.txt").write_text(SEPARATOR.join(found) + "\n", encoding="utf-8")
    lines = [json.dumps(item, ensure_ascii=False) for item in last_words(held_out)]
    (folder / "last_words.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
