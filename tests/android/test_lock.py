"""The app has two builds, Gradle's and that of android_demo/tools: their files must not drift apart."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import artifacts
import gradle_files
import lock
import pytest
import steps
from hypothesis import given
from hypothesis import strategies as st
from lock import Dependency, Module

PROJECT = gradle_files.read_project()
CATALOG = PROJECT.catalog
LOCKED = artifacts.read_lock()


def test_every_locked_file_has_its_sha256():
    unknown = [str(a) for a in LOCKED if not re.fullmatch(r"[0-9a-f]{64}", a.sha256)]
    # Where no registry served it when the lock was made; the same library comes from npm.
    allowed = [str(a) for a in LOCKED if a.name == "executorch-android" and a.sha256 == "-"]
    assert unknown == allowed


def test_the_lock_is_written_as_make_android_lock_writes_it(tmp_path):
    artifacts.write_lock(LOCKED, lock.roots_of(PROJECT), tmp_path / "again.lock")
    assert (tmp_path / "again.lock").read_text(encoding="utf-8") == artifacts.LOCK.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("core/build.gradle.kts", "    testImplementation(libs.coroutines.test)\n", ""),
        ("core/build.gradle.kts", "    api(libs.coroutines.core)", "    implementation(libs.coroutines.core)"),
        ("engine/build.gradle.kts", "    implementation(libs.fbjni)", "    api(libs.fbjni)"),
        ("app/build.gradle.kts", "    implementation(libs.activity.compose)\n", ""),
    ],
)
def test_a_lock_that_has_more_than_is_wanted_is_refused(gradle_project, file, old, new):
    path = gradle_project / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(
        artifacts.BuildError, match=r"^dependencies\.lock was made from other .*: run make android-lock\.$"
    ):
        lock.check_lock(gradle_files.read_project(gradle_project), LOCKED)


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


def test_the_catalog_has_nothing_that_is_not_used():
    entries = [*CATALOG["libraries"].values(), *CATALOG["plugins"].values()]
    named = {entry["version"]["ref"] for entry in entries if isinstance(entry.get("version"), dict)}
    assert named == set(CATALOG["versions"])
    used = {alias for module in PROJECT.modules.values() for aliases in module.libraries.values() for alias in aliases}
    used |= {alias for module in PROJECT.modules.values() for alias in module.platforms}
    assert used == set(CATALOG["libraries"])


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
