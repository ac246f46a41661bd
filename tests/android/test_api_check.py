from __future__ import annotations

import os
import shutil
import subprocess

import api_check
import artifacts
import compiling
import gradle_files
import pytest
from api_check import Entry, Use, check, differences, read_listed, read_uses
from artifacts import BuildError

SOC = Entry("android.os.Build.SOC_MODEL: java.lang.String", 31, "Phone.kt", "SDK_INT >= Build.VERSION_CODES.S")
SOC_USE = Use(SOC.what, SOC.source, "41", known=True)
SOURCES = {"Phone.kt": f"val soc = if (Build.VERSION.{SOC.guard}) Build.SOC_MODEL else Build.BOARD"}
HIDDEN = Use("android.os.ServiceManager", "Engine.kt", "7, 9", known=False)
TOOLS = {artifact.name: artifact for artifact in artifacts.read_lock() if artifact.scope == "tool"}


def _differences(uses, listed, sources=SOURCES):
    return differences(uses, listed, sources, lowest=26, highest=33)


# ----------------------------------------------------------------------------------------------------------------------
# The list
# ----------------------------------------------------------------------------------------------------------------------


def test_the_list_is_read(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n\n{SOC.what} | 31 |  {SOC.source} | {SOC.guard}  # why\n")
    assert read_listed(path) == [SOC]


@pytest.mark.parametrize(
    "line", ["android.os.Build.SOC_MODEL | 31 | Phone.kt", "a | S | b.kt | c", "a | 31 | | c", "a | 31 | b.kt | c | d"]
)
def test_a_line_of_another_form_is_an_error_with_its_number(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(BuildError, match=r"^list\.txt, line 2: expected"):
        read_listed(path)


def test_a_use_is_listed_once_for_each_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.b | 31 | One.kt | x\na.b | 31 | Two.kt | x\n")
    assert len(read_listed(path)) == 2
    path.write_text("a.b | 31 | One.kt | x\na.b | 30 | One.kt | y\n")
    with pytest.raises(BuildError, match=r"line 2: a\.b is listed twice for One\.kt"):
        read_listed(path)


def test_the_apps_own_list_names_guards_that_its_sources_have():
    lowest = int(gradle_files.read_project().app.min_sdk)
    listed = read_listed()
    for entry in listed:
        (source,) = [
            path for folder in (compiling.CORE, compiling.ENGINE, compiling.APP) for path in folder.rglob(entry.source)
        ]
        assert entry.guard in source.read_text(encoding="utf-8")
        assert entry.level > lowest


def test_no_two_source_files_have_one_name():
    """The list, and what a class says of its source, have names without folders."""
    names = [
        path.name
        for folder in (compiling.CORE, compiling.ENGINE, compiling.APP)
        for path in (folder / "main" / "kotlin").rglob("*.kt")
    ]
    assert sorted(names) == sorted(set(names))


def test_the_lock_has_the_signatures_of_the_lowest_api_and_of_a_higher_one():
    levels = {int(name.rsplit("-", 1)[1]) for name in TOOLS if name.startswith("gummy-bears-api-")}
    lowest = int(gradle_files.read_project().app.min_sdk)
    assert lowest in levels
    assert max(levels) > lowest
    assert {TOOLS[f"gummy-bears-api-{level}"].kind for level in levels} == {"signature"}


# ----------------------------------------------------------------------------------------------------------------------
# What was found
# ----------------------------------------------------------------------------------------------------------------------


def test_the_checkers_output_is_read():
    output = f"newer\t{SOC.what}\tPhone.kt\t41\nunknown\t{HIDDEN.what}\tEngine.kt\t7, 9\nreferences\t12\n"
    assert read_uses(output) == [SOC_USE, HIDDEN]


@pytest.mark.parametrize("output", ["", "references\t0\n", f"newer\t{SOC.what}\tPhone.kt\t41\n"])
def test_a_checker_that_looked_at_nothing_is_an_error(output):
    with pytest.raises(BuildError, match="found no classes"):
        read_uses(output)


def test_what_is_listed_and_guarded_passes():
    assert _differences([SOC_USE], [SOC]) == []


def test_a_newer_api_that_is_not_listed():
    assert _differences([SOC_USE], []) == [
        "android.os.Build.SOC_MODEL: java.lang.String (Phone.kt, line 41) is newer than API 26: guard it, and list it "
        "in newer_apis.txt."
    ]


def test_a_use_in_another_file_is_not_covered():
    (problem,) = _differences([SOC_USE, SOC_USE._replace(source="Other.kt", lines="")], [SOC])
    assert problem.startswith("android.os.Build.SOC_MODEL: java.lang.String (Other.kt) is newer than API 26")


def test_a_hidden_api():
    assert _differences([HIDDEN], []) == [
        "android.os.ServiceManager (Engine.kt, line 7, 9) is in no public API up to 33: it is hidden, or newer; only "
        "what is newer may be listed in newer_apis.txt."
    ]


@pytest.mark.parametrize(("level", "right"), [(26, False), (27, True), (33, True), (34, False)])
def test_the_level_of_a_known_api_lies_between_the_two(level, right):
    assert (_differences([SOC_USE], [SOC._replace(level=level)]) == []) == right


@pytest.mark.parametrize(("level", "right"), [(31, False), (33, False), (34, True)])
def test_what_the_highest_level_lacks_can_only_be_newer(level, right):
    entry = Entry(HIDDEN.what, level, HIDDEN.source, "SDK_INT >= 34")
    assert (_differences([HIDDEN], [entry]) == []) == right


def test_a_line_that_nothing_needs():
    (problem,) = _differences([], [SOC])
    assert "Phone.kt does not use it" in problem


def test_a_guard_that_is_gone():
    (problem,) = _differences([SOC_USE], [SOC], {"Phone.kt": "val soc = Build.SOC_MODEL"})
    assert problem.endswith("the guard in newer_apis.txt, 'SDK_INT >= Build.VERSION_CODES.S', is not in Phone.kt.")


def test_all_problems_are_in_the_error_one_a_line(tmp_path):
    listed = tmp_path / "newer_apis.txt"
    listed.write_text("")
    output = f"newer\t{SOC.what}\tPhone.kt\t41\nunknown\t{HIDDEN.what}\tEngine.kt\t7\nreferences\t2\n"
    with pytest.raises(BuildError) as caught:
        check(output, [tmp_path], 26, 33, listed)
    first, *problems = str(caught.value).splitlines()
    assert first.endswith(":")
    assert [problem.split()[0] for problem in problems] == [SOC.what.split()[0], HIDDEN.what]


# ----------------------------------------------------------------------------------------------------------------------
# The checker itself
# ----------------------------------------------------------------------------------------------------------------------

STUBS = {
    "android/os/ServiceManager": "public static Object getService(String name) { return null; }",
    "android/os/Process": "public static native boolean isSdkSandbox(); public static int myPid() { return 1; }",
    "android/app/Activity": "protected Object getActivityToken() { return null; } public void finish() {}",
}
SCRATCH = """
package scratch;

public class Scratch extends android.app.Activity {
    Runnable fine() { finish(); return java.util.List.of(android.os.Process.myPid() + "")::size; }
    Object hidden() { return android.os.ServiceManager.getService("activity"); }
    Object inherited() { return getActivityToken(); }
    boolean newer() { return android.os.Process.isSdkSandbox(); }
    java.util.function.Supplier<Long> java() { return ProcessHandle.current()::pid; }
}
"""


@pytest.fixture
def tools():
    wanted = ("animal-sniffer", "asm", "gummy-bears-api-26", "gummy-bears-api-33")
    paths = [artifacts.cache_folder() / TOOLS[name].path for name in wanted]
    if not all(path.is_file() for path in paths):
        pytest.skip("the checker's files are not in the cache: any build of the app downloads them")
    if not shutil.which("javac"):
        pytest.skip("no JDK")
    return paths


def test_the_checker_sees_what_is_hidden_and_what_is_newer(tools, tmp_path):
    for name, body in STUBS.items():
        file = tmp_path / "stubs" / f"{name}.java"
        file.parent.mkdir(parents=True, exist_ok=True)
        package, simple = name.rsplit("/", 1)
        file.write_text(f"package {package.replace('/', '.')}; public class {simple} {{ {body} }}")
    source = tmp_path / "Scratch.java"
    source.write_text(SCRATCH)
    classes, stubs = tmp_path / "classes", tmp_path / "stubs"
    sources = [str(source), *map(str, stubs.rglob("*.java"))]
    subprocess.run(["javac", "-nowarn", "--release", "17", "-d", str(classes), *sources], check=True)
    shutil.rmtree(classes / "android")  # only to compile against
    *jars, low, high = map(str, tools)
    command = ["java", "-cp", os.pathsep.join(jars), str(api_check.CHECKER), low, high, str(classes), jars[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {use.what: (use.source, use.lines, use.known) for use in read_uses(done.stdout)}
    line = {
        name: str(number) for number, text in enumerate(SCRATCH.splitlines(), 1) for name in [text[4:].split("(")[0]]
    }
    assert found == {
        "android.os.ServiceManager": ("Scratch.java", line["Object hidden"], False),
        "android.app.Activity.getActivityToken(): java.lang.Object": ("Scratch.java", line["Object inherited"], False),
        "android.os.Process.isSdkSandbox(): boolean": ("Scratch.java", line["boolean newer"], True),
        "java.lang.ProcessHandle": ("Scratch.java", line["java.util.function.Supplier<Long> java"], False),
    }
