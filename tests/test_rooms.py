"""Who may know whom: the imports of every module, at the top and within functions."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "et_pipeline"


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports(module, lazy=True):
    """The modules of the package that one imports; without `lazy`, not those within functions."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child
            if lazy or not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield from walk(child)

    found = set()
    for node in walk(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{module}: relative imports hide where they lead"
            longer = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (longer & PATHS.keys()) or {node.module}
    return found & PATHS.keys() - {module}


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_nothing_outside_bench_imports_it():
    offenders = {m: sorted(o for o in imports(m) if room(o) == "bench") for m in PATHS if room(m) != "bench"}
    assert not {m: found for m, found in offenders.items() if found}


def test_upstream_knows_nothing_of_us():
    allowed = {"upstream", "errors"}
    offenders = {m: sorted(o for o in imports(m) if room(o) not in allowed) for m in PATHS if room(m) == "upstream"}
    assert not {m: found for m, found in offenders.items() if found}


def circles():
    """Modules that reach themselves by imports at the top or for types, in groups that reach each other."""
    reached = {}
    for module in PATHS:
        seen, waiting = set(), [module]
        while waiting:
            new = imports(waiting.pop(), lazy=False) - seen
            seen |= new
            waiting += new
        reached[module] = seen
    groups = {frozenset(o for o in reached[m] if m in reached[o]) for m in PATHS if m in reached[m]}
    return sorted(map(sorted, groups))


def test_no_circles():
    assert circles() == []


def test_what_is_found():
    assert "et_pipeline.worker" in imports("et_pipeline.report.progress", lazy=False)
    assert "et_pipeline.runtime.packed_weights" in imports("et_pipeline.bundle.loading")
    assert "et_pipeline.runtime.packed_weights" not in imports("et_pipeline.bundle.loading", lazy=False)
