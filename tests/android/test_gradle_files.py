"""The build in android_demo/tools makes what the Gradle files say, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import artifacts
import gradle_files
import lock
import pytest
from artifacts import BuildError
from gradle_files import read_project, statements

LOCKED = artifacts.read_lock()
SCRIPTS = ("settings.gradle.kts", "build.gradle.kts", *(f"{name}/build.gradle.kts" for name in gradle_files.MODULES))
FILES = (*SCRIPTS, "gradle.properties")


def _lines(file):
    return (artifacts.ROOT / file).read_text(encoding="utf-8").splitlines()


def _code(line):
    return re.sub(r"\s*(//|#).*", "", line)


def _mutations(file):
    """Each line left out or said twice, and each of its values, names and signs another: (number, new lines)."""
    for number, line in enumerate(_lines(file)):
        code = _code(line)
        if not re.search(r"\w", code) or code.startswith("org.gradle."):
            continue
        if code.count("{") == code.count("}"):
            yield number, []
            yield number, [line, line]
        for word in re.finditer(r"[A-Za-z_]\w*|\d+", code):
            other = str(int(word[0]) + 1) if word[0].isdigit() else word[0] + "x"
            yield number, [code[: word.start()] + other + code[word.end() :]]
        for old, new in (("true", "false"), (" = ", " += "), (" += ", " = "), ("api(", "implementation(")):
            if old in code:
                yield number, [code.replace(old, new)]
        if code.endswith("{"):
            yield number, [line, "something.other = 1"]


def _refusal(project):
    """What reading a project and comparing the lock says against it."""
    try:
        lock.check_lock(read_project(project), LOCKED)
    except BuildError as error:
        return str(error)
    return None


@pytest.mark.parametrize("file", FILES)
def test_whatever_changes_in_a_gradle_file_is_followed_or_refused(gradle_project, file):
    before = read_project(gradle_project)
    mutations = list(_mutations(file))
    assert len(mutations) > 10
    unnoticed, unclear = [], []
    for number, lines in mutations:
        text = _lines(file)
        text[number : number + 1] = lines
        (gradle_project / file).write_text("\n".join(text) + "\n", encoding="utf-8")
        said = _refusal(gradle_project)
        if said is None and read_project(gradle_project) == before:
            unnoticed.append((number + 1, lines))
        if said is not None and not re.fullmatch(r"[^\n]+\.", said):
            unclear.append(said)
    assert unnoticed == []
    assert unclear == []


def test_whatever_changes_in_the_catalog_is_refused_until_the_lock_is_made_anew(gradle_project):
    unnoticed = []
    for number, line in enumerate(_lines(gradle_files.CATALOG)):
        values = re.findall(r'"([^"]+)"', _code(line))
        for value in values:
            text = _lines(gradle_files.CATALOG)
            text[number] = text[number].replace(f'"{value}"', f'"{value}.1"')
            (gradle_project / gradle_files.CATALOG).write_text("\n".join(text), encoding="utf-8")
            if _refusal(gradle_project) is None:
                unnoticed.append((number + 1, value))
    assert unnoticed == []


def test_the_gradle_files_and_the_lock_are_as_the_build_needs_them():
    project = read_project()
    lock.check_lock(project, LOCKED)
    assert int(project.app.min_sdk) <= int(project.app.target_sdk) <= int(project.app.compile_sdk)
    assert project.engine.rules.is_file()


def test_statements_stand_in_their_blocks():
    text = """// a comment { of a block
    android {
        namespace = "org.x" // "as said"
        defaultConfig { minSdk = 26; ndk { abiFilters += listOf("a", /* not { this */ "b") } }
        empty { }
    }
    dependencies {
        implementation(
            project(":a { b }")
        )
    }"""
    assert statements(text, "some.kts") == [
        'android.namespace = "org.x"',
        "android.defaultConfig.minSdk = 26",
        'android.defaultConfig.ndk.abiFilters += listOf("a",  "b")',
        'dependencies.implementation( project(":a { b }") )',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a { b = 1 }\n}", "has a '}' without its '{'"),
        ("a { b = 1", "has a '{' without its other half"),
        ("a(1))", "has a ')' without its '('"),
        ("a(1\nb = 2", "has a '(' without its other half"),
        ("a { b(1 }\n c = 2", "has a '}' without its '{'"),
        ("a(b { c )", "has a ')' without its '('"),
        (")", "has a ')' without its '('"),
    ],
)
def test_a_script_with_half_a_pair_is_refused(text, said):
    with pytest.raises(BuildError) as caught:
        statements(text, "some.kts")
    assert str(caught.value) == f"some.kts {said}: add or remove one."


@pytest.mark.parametrize("module", ["engine", "app"])
@pytest.mark.parametrize("setting", ["compileSdk", "minSdk"])
@pytest.mark.parametrize("value", ['"37"', '"x"', "x"])
def test_a_level_that_is_no_number_is_refused(gradle_project, module, setting, value):
    path = gradle_project / module / "build.gradle.kts"
    text = re.sub(rf"{setting} = \d+", f"{setting} = {value}", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        BuildError,
        match=rf"^{module}/build\.gradle\.kts has to set [\w.]+{setting} once, to a number; it does 0 times\.$",
    ):
        read_project(gradle_project)


@pytest.mark.parametrize(
    "path",
    [
        "core/src/main/java/A.java",
        "core/src/main/java/B.kt",
        "core/src/main/kotlin/A.java",
        "core/src/main/resources/a.txt",
        "engine/src/main/AndroidManifest.xml",
        "engine/src/main/res/values/strings.xml",
        "engine/src/test/kotlin/A.kt",
        "app/src/main/jniLibs/arm64-v8a/liba.so",
        "app/src/debug/kotlin/A.kt",
        "app/src/release/AndroidManifest.xml",
        "app/src/androidTest/kotlin/A.kt",
        "app/src/test/resources/a.txt",
    ],
)
def test_a_file_that_only_gradle_would_build_is_refused(gradle_project, path):
    (gradle_project / path).parent.mkdir(parents=True)
    (gradle_project / path).write_text("")
    with pytest.raises(BuildError, match=rf"^{path} is in no folder that both builds read: move it\.$"):
        read_project(gradle_project)


@pytest.mark.parametrize(
    "path", ["core/src/main/kotlin/a/A.kt", "app/src/main/assets/a", "app/src/test/notes.tsv", "app/src/main/.DS_Store"]
)
def test_a_file_that_both_builds_read_is_welcome(gradle_project, path):
    (gradle_project / path).parent.mkdir(parents=True)
    (gradle_project / path).write_text("")
    assert read_project(gradle_project)


@pytest.mark.parametrize(("old", "new"), [("compileSdk = 37", "compileSdk = 36"), ("minSdk = 26", "minSdk = 27")])
def test_the_engine_must_fit_the_app(gradle_project, old, new):
    path = gradle_project / "engine" / "build.gradle.kts"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(BuildError, match="need one compileSdk"):
        read_project(gradle_project)


def test_resources_that_the_app_names_are_its_own():
    """The R class of Gradle has those alone (android.nonTransitiveRClass); this build's has those of libraries too."""
    folder = artifacts.ROOT / "app" / "src" / "main"
    own = set()
    for path in (folder / "res").rglob("*.xml"):
        kind = path.parent.name.split("-")[0]
        if kind == "values":
            entries = re.findall(r'<([\w-]+) name="([^"]+)"', path.read_text(encoding="utf-8"))
            own |= {(name.rpartition("-")[2], value.replace(".", "_")) for name, value in entries}  # string-array
        else:
            own.add((kind, path.stem))
    used = set()
    for path in folder.rglob("*.kt"):
        used |= set(re.findall(r"(?<![\w.])R\.(\w+)\.(\w+)", path.read_text(encoding="utf-8")))
    assert len(used) > 100
    assert used <= own


def test_a_lock_of_other_scopes_is_refused():
    """What only the tests have in the lock must not do for the app, nor the engine's own for it."""
    project = read_project()
    for scope, other in (("core", "test"), ("app", "engine"), ("core-test", "app")):
        moved = [artifact for artifact in LOCKED if artifact.scope != scope]
        moved += [
            artifacts.Artifact(other, a.group, a.name, a.version, a.kind, a.sha256) for a in LOCKED if a.scope == scope
        ]
        with pytest.raises(BuildError, match=r"dependencies\.lock has none for that: run make android-lock\.$"):
            lock.check_lock(project, moved)


def test_the_lock_says_what_it_has_instead():
    project = read_project()
    older = [
        artifacts.Artifact(a.scope, a.group, a.name, "1.0" if a.name == "junit" else a.version, a.kind, a.sha256)
        for a in LOCKED
    ]
    with pytest.raises(
        BuildError, match=r"^core/build\.gradle\.kts wants junit:junit [\d.]+, and .* has 1\.0: run make"
    ):
        lock.check_lock(project, older)


def test_nothing_of_this_build_names_a_version_of_the_catalog():
    """A second copy of it would be forgotten."""
    project = read_project()
    versions = {value for value in project.catalog["versions"].values() if value.count(".") > 1}
    for path in Path(lock.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert [value for value in versions if f":{value}" in text or f'"{value}"' in text] == [], path.name
