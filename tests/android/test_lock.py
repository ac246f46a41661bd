"""The app has two builds, Gradle's and that of android_demo/tools: their files must not drift apart."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import artifacts
import compiling
import lock
import pytest
import steps
import toolbox
from hypothesis import given
from hypothesis import strategies as st
from lock import Dependency, Module

CATALOG = lock.catalog()
LOCKED = artifacts.read_lock()
APP_GRADLE = (artifacts.ROOT / "app" / "build.gradle.kts").read_text(encoding="utf-8")
USED = sorted(
    {
        (alias, scopes)
        for project in ("core", "engine", "app")
        for configuration, scopes in (
            ("api", ("app", "runtime")),
            ("implementation", ("app", "runtime")),
            ("testImplementation", ("app", "test")),
        )
        for alias in lock.direct_dependencies(project, [configuration])
        if alias != "compose-bom"  # it sets versions of others and has no file
    }
)


def _locked_versions(module, scopes):
    """Versions of a module's file in the lock; a multiplatform module has its file under its platform's name."""
    names = {module.name, f"{module.name}-android", f"{module.name}-jvm"}
    return {a.version for a in LOCKED if a.scope in scopes and a.group == module.group and a.name in names}


def _version(scope, name):
    (version,) = {artifact.version for artifact in LOCKED if (artifact.scope, artifact.name) == (scope, name)}
    return version


def _gradle_number(key):
    return int(re.search(rf"\b{key} = (\d+)$", APP_GRADLE, re.MULTILINE)[1])


def test_every_locked_file_has_its_sha256():
    unknown = [str(a) for a in LOCKED if not re.fullmatch(r"[0-9a-f]{64}", a.sha256)]
    # Where no registry served it when the lock was made; the same library comes from npm.
    allowed = [str(a) for a in LOCKED if a.name == "executorch-android" and a.sha256 == "-"]
    assert unknown == allowed


def test_no_file_is_locked_twice_for_one_purpose():
    counts = Counter((a.scope, a.group, a.name) for a in LOCKED)
    assert [
        key for key, count in counts.items() if count > 1 and key != ("tool", "org.robolectric", "android-all")
    ] == []


def test_one_file_has_one_hash_for_all_purposes():
    hashes = {}
    for artifact in LOCKED:
        hashes.setdefault(artifact.path, set()).add(artifact.sha256)
    assert [path for path, found in hashes.items() if len(found) > 1] == []


def test_no_two_archives_are_unpacked_into_one_folder():
    """`prepare` names the folders by the files, without the group."""
    stems = Counter(Path(a.path).stem for a in {a.path: a for a in LOCKED if a.kind == "aar"}.values())
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_build_files_name_dependencies_that_the_lock_reads():
    """Whatever is declared there in a way that the pattern does not see would be missing from the lock."""
    for project in ("core", "engine", "app"):
        text = (artifacts.ROOT / project / "build.gradle.kts").read_text(encoding="utf-8")
        declared = re.search(r"^dependencies \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)[1].splitlines()
        read = lock.direct_dependencies(project, ["api", "implementation", "testImplementation"])
        assert len(read) == len([line for line in declared if "project(" not in line])


@pytest.mark.parametrize(
    "file", ["build.gradle.kts", "core/build.gradle.kts", "engine/build.gradle.kts", "app/build.gradle.kts"]
)
def test_every_accessor_of_the_build_files_is_in_the_catalog(file):
    used = set(re.findall(r"\blibs\.([\w.]+)", (artifacts.ROOT / file).read_text(encoding="utf-8")))
    known = {re.sub(r"[-_]", ".", alias) for alias in CATALOG["libraries"]}
    known |= {"plugins." + re.sub(r"[-_]", ".", alias) for alias in CATALOG["plugins"]}
    assert used
    assert used <= known


def test_the_catalog_has_nothing_that_is_not_used():
    entries = [*CATALOG["libraries"].values(), *CATALOG["plugins"].values()]
    named = {entry["version"]["ref"] for entry in entries if isinstance(entry.get("version"), dict)}
    assert named == set(CATALOG["versions"])
    assert {alias for alias, _ in USED} | {"compose-bom"} == set(CATALOG["libraries"])


@pytest.mark.parametrize(("alias", "scopes"), USED)
def test_the_lock_has_every_dependency_at_the_version_of_the_catalog(alias, scopes):
    module, version = lock.coordinate(alias, CATALOG["libraries"], CATALOG["versions"])
    found = _locked_versions(module, scopes)
    if version:
        assert found == {version}
    else:  # the BOM's
        assert len(found) == 1


def test_tools_agree_with_the_plugins_that_gradle_uses():
    versions = CATALOG["versions"]
    for name in ("kotlin-compose-compiler-plugin-embeddable", "kotlin-serialization-compiler-plugin-embeddable"):
        assert _version("tool", name) == versions["kotlin"]
    assert _version("compiler", "kotlin-compiler-embeddable") == versions["kotlin"]
    assert _version("app", "kotlin-stdlib") == versions["kotlin"]
    assert _version("tool", "apksig") == versions["agp"]
    major, rest = versions["agp"].split(".", 1)
    assert _version("merger", "manifest-merger") == f"{int(major) + 23}.{rest}"  # how Android numbers its libraries


def test_the_framework_to_compile_against_is_that_of_compile_sdk():
    release = int(_version("tool", "android-all").split("-")[0])
    assert release + 20 == _gradle_number("compileSdk")  # Android 16 has API level 36, and so on


def test_settings_are_those_of_the_gradle_file():
    settings = compiling.read_settings()
    assert int(settings.min_sdk) == _gradle_number("minSdk")
    assert int(settings.target_sdk) == _gradle_number("targetSdk")
    assert int(settings.version_code) == _gradle_number("versionCode")
    assert f'applicationId = "{settings.application}"' in APP_GRADLE
    assert f'versionName = "{settings.version_name}"' in APP_GRADLE
    assert int(settings.min_sdk) <= int(settings.target_sdk) <= _gradle_number("compileSdk")
    assert re.findall(r'"([^"]+)"', re.search(r"abiFilters \+= listOf\((.*)\)", APP_GRADLE)[1]) == list(toolbox.ABIS)


def test_a_setting_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "build.gradle.kts").write_text(APP_GRADLE.replace("targetSdk", "someSdk"))
    monkeypatch.setattr(compiling, "ROOT", tmp_path)
    with pytest.raises(artifacts.BuildError, match="does not set targetSdk"):
        compiling.read_settings()


def test_the_wrapper_takes_gradle_from_its_makers():
    text = (artifacts.ROOT / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    values = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    url = values["distributionUrl"].replace("\\:", ":")
    assert re.fullmatch(r"https://services\.gradle\.org/distributions/gradle-[\d.]+-(bin|all)\.zip", url)
    assert re.fullmatch(r"[0-9a-f]{64}", values["distributionSha256Sum"])


def test_git_ignores_what_both_builds_leave():
    ignored = (artifacts.ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/build/", "/core/build/", "/engine/build/", "/app/build/", "/.gradle/", "/local.properties"} <= set(
        ignored
    )
    assert steps.BUILD == artifacts.ROOT / "build"


def test_version_catalog_is_the_only_place_for_versions():
    assert tomllib.loads(lock.CATALOG.read_text(encoding="utf-8")) == CATALOG
    for file in ("build.gradle.kts", "core/build.gradle.kts", "engine/build.gradle.kts", "app/build.gradle.kts"):
        text = (artifacts.ROOT / file).read_text(encoding="utf-8")
        assert not re.findall(r'\("[\w.]+:[\w.-]+:[^"]+"\)', text)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.9.0", "1.10.0"),
        ("1.0", "1.0.1"),
        ("1.0-alpha02", "1.0-beta01"),
        ("1.0-rc01", "1.0"),
        ("1.7.8", "2026.09.00"),
    ],
)
def test_versions_are_ordered_as_gradle_orders_them(lower, higher):
    assert lock.version_key(lower) < lock.version_key(higher)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_versions_of_numbers_are_ordered_by_their_numbers(left, right):
    texts = [".".join(map(str, numbers)) for numbers in (left, right)]
    assert (lock.version_key(texts[0]) < lock.version_key(texts[1])) == (left < right)


def _registry(monkeypatch, poms):
    """Puts POMs in the place of the registries: 'group:name:version' to 'group:name:version ...' of what it wants."""

    def pom(module, version):
        wants = poms.get(f"{module.group}:{module.name}:{version}")
        if wants is None:
            return None
        needs = ""
        for want in wants.split():
            group, name, needed = want.split(":")
            needs += f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
            needs += f"<version>{needed}</version></dependency>"
        return lock.ET.fromstring(f"<project><dependencies>{needs}</dependencies></project>")

    monkeypatch.setattr(lock, "pom", pom)


def test_the_highest_wanted_version_wins(monkeypatch):
    _registry(monkeypatch, {"g:a:1": "g:c:1.9", "g:b:1": "g:c:1.10", "g:c:1.9": "g:d:1", "g:c:1.10": "", "g:d:1": ""})
    roots = [Dependency(Module("g", "a"), "1"), Dependency(Module("g", "b"), "1")]
    versions = {module.name: version for module, version in lock.resolve(roots, {}).items()}
    assert versions == {"a": "1", "b": "1", "c": "1.10"}  # and nothing of what only 1.9 wanted


def test_constraints_give_versions_and_raise_them(monkeypatch):
    _registry(monkeypatch, {"g:a:2": "g:c:1", "g:c:3": ""})
    limits = {Module("g", "a"): "2", Module("g", "c"): "3", Module("g", "unused"): "1"}
    found = lock.resolve([Dependency(Module("g", "a"), "")], limits)
    assert {module.name: version for module, version in found.items()} == {"a": "2", "c": "3"}


def test_a_version_that_nobody_names_is_refused(monkeypatch):
    _registry(monkeypatch, {})
    with pytest.raises(artifacts.BuildError, match="which version of g:a"):
        lock.resolve([Dependency(Module("g", "a"), "")], {})


def test_of_a_multiplatform_module_the_android_part_is_taken(monkeypatch):
    _registry(monkeypatch, {"g:m:1": "", "g:m-android:1": "", "g:m-jvm:1": "", "g:n:1": "", "g:n-jvm:1": ""})
    found = lock.resolve([Dependency(Module("g", "m"), "1"), Dependency(Module("g", "n"), "1")], {})
    assert {module.name for module in lock.with_files(found)} == {"m-android", "n-jvm"}
