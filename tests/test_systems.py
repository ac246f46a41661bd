"""What is said of other systems than Linux, tried on one that pretends to be them: neither was at hand."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from et_pipeline import __file__ as package
from et_pipeline import host
from et_pipeline.errors import UserError
from et_pipeline.job.composed import composed

ROOM = Path(package).parent
# What Windows has not, and what macOS has not or does otherwise.
MODULES = {"fcntl", "resource", "readline", "pwd", "grp", "termios"}
NAMES = {
    "os": {"fork", "wait3", "wait4", "waitpid", "sysconf", "killpg", "setsid", "nice", "getuid", "mkfifo", "pread"},
    "socket": {"send_fds", "recv_fds", "AF_UNIX", "socketpair"},
    "signal": {"SIGKILL", "SIGCHLD", "SIGALRM", "SIGHUP", "set_wakeup_fd"},
    "sys": {"platform"},
}
WORDS = ("/proc/", "/sys/", "/dev/")
ARGUMENTS = {"pass_fds", "preexec_fn", "start_new_session"}
ELSEWHERE = {
    "host.py": "the one place",
    "worker/server.py": "forks, and is asked to where host.forks() says yes",
    "bench/engines.py": "of bench.host, which refuses what is not Linux",
    "bench/host.py": "refuses what is not Linux",
    "bench/newcomer.py": "likewise",
    "bench/processor.py": "likewise",
    "runtime/mapped.py": "does nothing where it is not Linux",
}


def unportable(tree):
    """Names in a module that not every system has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (each.name for each in node.names if each.name in NAMES.get(node.module, ()))
            if node.module in MODULES:
                yield node.module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NAMES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in ARGUMENTS:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(WORDS):
            yield node.value


def test_only_one_module_knows_what_systems_do_differently():
    found = {}
    for path in sorted(ROOM.rglob("*.py")):
        names = sorted(set(unportable(ast.parse(path.read_text(encoding="utf-8")))))
        if names:
            found[path.relative_to(ROOM).as_posix()] = names
    assert {name: names for name, names in found.items() if name not in ELSEWHERE} == {}
    assert set(found) == set(ELSEWHERE)  # who no longer needs to stand there goes


def test_what_is_not_portable_is_found():
    text = (
        "import fcntl\nfrom os import fork\nsubprocess.run([], pass_fds=(1,))\nopen('/proc/self/maps')\nos.sysconf('x')"
    )
    assert set(unportable(ast.parse(text))) == {"fcntl", "fork", "pass_fds", "/proc/self/maps", "os.sysconf"}


def without_encoding(tree):
    """Lines that read or write text as the system's language has it, which on Windows is not UTF-8."""
    places = {"read_text": None, "write_text": None, "open": 0, "fdopen": 1}  # where the mode stands
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "attr", None)
        if name in places and not any(each.arg == "encoding" for each in node.keywords):
            place = places[name]
            mode = ast.unparse(node.args[place]) if place is not None and len(node.args) > place else "'r'"
            if mode[0] in "'\"" and "b" not in mode:  # another thing's `open` takes a name there
                yield node.lineno


def test_text_is_utf8_wherever_it_is_written():
    found = {}
    for path in ROOM.rglob("*.py"):
        if lines := list(without_encoding(ast.parse(path.read_text(encoding="utf-8")))):
            found[path.name] = lines
    assert found == {}


def test_text_of_the_systems_language_is_found():
    text = "a.read_text()\na.write_text('x')\na.open()\na.open('w')\nos.fdopen(1, 'w')\n"
    right = "a.read_text(encoding='utf-8')\na.open('rb')\nos.fdopen(1, 'wb')\na.open('w', encoding='utf-8')"
    assert list(without_encoding(ast.parse(text + right))) == [1, 2, 3, 4, 5]


IMPORT_ALL = """
import ast, importlib, os, pkgutil, signal, socket, sys
import et_pipeline

libraries = set()
for path in map(str, __import__("pathlib").Path(et_pipeline.__file__).parent.rglob("*.py")):
    with open(path, encoding="utf-8") as file:
        for node in ast.parse(file.read()).body:
            if isinstance(node, ast.Import):
                libraries |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                libraries.add(node.module)
libraries = {name for name in libraries if not name.startswith("et_pipeline")}
for name in sorted(libraries - MODULES):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == "lm_eval", error  # an extra that the tests do without

sys.platform = SYSTEM
if SYSTEM == "win32":
    for name in MODULES:
        sys.modules[name] = None
    for module, names in NAMES.items():
        for name in names - {"platform"}:
            vars(sys.modules[module]).pop(name, None)
known = set(sys.modules)
done = 0
for each in pkgutil.walk_packages(et_pipeline.__path__, "et_pipeline."):
    try:
        importlib.import_module(each.name)
        done += 1
    except ModuleNotFoundError as error:
        assert error.name == "lm_eval", error
print(done, "et_pipeline.host" in sys.modules and "et_pipeline.host" not in known)
"""


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_module_can_be_imported_elsewhere(system):
    """Libraries look at the system while they are imported, so those come before it changes."""
    given = f"SYSTEM, MODULES, NAMES = {system!r}, {MODULES!r}, {NAMES!r}\n"
    done = subprocess.run([sys.executable, "-c", given + IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, late = done.stdout.split()
    assert int(count) >= len(list(ROOM.rglob("*.py"))) - len(list(ROOM.rglob("__init__.py")))
    assert late == "True"  # ours were imported on the other system


def test_figures_of_this_process_are_what_the_system_says():
    own = psutil.Process()
    block = bytearray(os.urandom(1 << 20)) * 64
    assert host.resident_bytes() == pytest.approx(own.memory_info().rss, rel=0.05)
    assert host.peak_bytes() >= host.resident_bytes() * 0.95 > len(block)
    assert host.memory_bytes() <= psutil.virtual_memory().total
    sum(range(10**6))
    assert host.cpu_seconds() >= sum(own.cpu_times()[:2]) - 0.1


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_figures_elsewhere_come_from_psutil(system, monkeypatch):
    monkeypatch.setattr("sys.platform", system)
    assert host.memory_bytes() == psutil.virtual_memory().total
    assert host.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    if system == "win32":
        fields = type("of Windows", (), {"peak_wset": 7})
        monkeypatch.setattr(psutil.Process, "memory_info", lambda self: fields)
        assert host.peak_bytes() == 7


def test_a_folder_is_not_synced_on_windows_and_a_file_is(tmp_path, monkeypatch):
    """Windows opens no folder, and syncs a file only for who may write to it."""
    monkeypatch.setattr("sys.platform", "win32")
    (tmp_path / "file").write_text("x")
    opened = []
    really = os.open
    monkeypatch.setattr("os.open", lambda path, flags: opened.append((path, flags)) or really(path, flags))
    host.sync(tmp_path)
    host.sync(tmp_path / "file")
    assert opened == [(tmp_path / "file", os.O_RDWR)]


def test_a_link_is_a_copy_on_windows(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("sys.platform", "win32")
    host.link(tmp_path / "second", tmp_path / "file")
    assert (tmp_path / "second").read_text() == "x"
    assert not (tmp_path / "second").is_symlink()


@pytest.mark.linux("limits")
def test_a_process_is_held_to_its_limits():
    program = "from et_pipeline import host; host.limit(5, 1 << 30); bytearray(2 << 30)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_what_needs_linux_says_so_elsewhere(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UserError, match=r"bench\.host reads .* from /proc, which darwin has not; run it on Linux"):
        host.only_linux("et_pipeline.bench.host")


def test_only_linux_forks(monkeypatch):
    forks = {}
    for system in ("linux", "darwin", "win32"):
        monkeypatch.setattr("sys.platform", system)
        forks[system] = host.forks()
    assert forks == {"linux": True, "darwin": False, "win32": False}


def test_the_cache_needs_no_home_in_the_environment(monkeypatch):
    """Windows has none."""
    for name in ("HOME", "ET_PIPELINE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert composed([]).paths.cache == Path("~/.cache/et_pipeline")
