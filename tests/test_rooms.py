"""Who may know whom is in pyproject.toml, and import-linter says it (make lint); here is what it cannot say."""

import ast
from collections import Counter
from pathlib import Path

import grimp

from et_pipeline import __file__ as package

LINES, OF_A_FUNCTION = 400, 60
DATA = {"text.py"}  # of the built-in model


def test_rooms_are_short():
    for path in Path(package).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name in DATA or text.count("\n") <= LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < OF_A_FUNCTION, f"{path}: {node.name}"


def test_test_files_have_names_of_their_own():
    """The folders are no packages, so pytest would import two of one name as one module, and stop."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_package_knows_a_module_that_knows_it():
    """Whoever imports either first would meet the other half made."""
    graph = grimp.build_graph("et_pipeline")
    for module in graph.find_modules_directly_imported_by("et_pipeline"):  # the Python API imports when it is called
        graph.remove_import(importer="et_pipeline", imported=module)
    upward = [
        (package, module)
        for module in graph.modules
        for package in graph.find_modules_directly_imported_by(module)
        if module.startswith(f"{package}.") and package != "et_pipeline"
    ]
    assert ("et_pipeline.manifest", "et_pipeline.manifest.__main__") in upward
    assert [pair for pair in upward if graph.find_shortest_chain(*pair)] == []
