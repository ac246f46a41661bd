"""The notebook of the documentation, as a reader runs it."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "quickstart.ipynb"


def test_it_is_kept_without_what_it_printed_somewhere():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
    """In a kernel, as Jupyter has it: its own event loop, no terminal, no main module."""
    monkeypatch.setenv("ET_PIPELINE_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(tmp_path)}}).execute()

    def shown(beginning):
        (cell,) = (each for each in notebook.cells if each.source.startswith(beginning))
        return "".join(output.get("text") or output.data["text/plain"] for output in cell.outputs)

    assert shown("survey =").startswith("Samsung Galaxy S22: ")
    assert "recipe=8da5w does not exist" in shown("try:")
    assert shown("result =") == "'tiny_assistant-8da4w-g32-xnnpack'"
    assert shown("gate =").endswith("True")
    assert shown("bundle =").strip("'")
    assert shown("messages =") == "Your dog is called Coco."
    assert shown("verification =").endswith("True")
    assert {path.name for path in tmp_path.iterdir()} == {"bundles", "cache", "outputs"}


def test_what_the_page_shows_is_in_the_notebook():
    page = (NOTEBOOK.parents[1] / "pages" / "howto" / "python.md").read_text(encoding="utf-8")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code").splitlines()
    shown = [line for block in page.split("```python\n")[1:] for line in block.split("```")[0].splitlines() if line]
    assert shown
    assert [line for line in shown if line not in code] == []
