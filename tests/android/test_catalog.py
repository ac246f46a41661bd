"""Every way of writing Gradle's catalog is read, or refused in one sentence that names the entry."""

from __future__ import annotations

import catalog
import lock
import pytest
from artifacts import BuildError
from gradle_files import read_project

JUNIT = 'junit = { module = "junit:junit", version.ref = "junit" }'
KOTLIN_JVM = 'kotlin-jvm = { id = "org.jetbrains.kotlin.jvm", version.ref = "kotlin" }'
LIBRARY = 'write { module = "group:name", version.ref = "some" }.'
PLUGIN = 'write { id = "some.id", version.ref = "some" }.'


@pytest.mark.parametrize(
    ("old", "new", "named", "works"),
    [
        ('junit = "4.13.2"', "junit = 4.13.2", "is no TOML in UTF-8: ", "(at line "),
        ('junit = "4.13.2"', "junit = 4.13", "in [versions] junit = 4.13", 'write "1.2.3".'),
        (
            'junit = "4.13.2"',
            'junit = { strictly = "4.13.2" }',
            "in [versions] junit = {'strictly': ",
            'write "1.2.3".',
        ),
        (
            'junit = "4.13.2"',
            'junit4 = "4.13.2"',
            "in [libraries] junit with version.ref = 'junit'",
            "kotlin, lifecycle, ",
        ),
        (
            'kotlin = "2.4.21"',
            'kotlin2 = "2.4.21"',
            "in [plugins] kotlin-compose with version.ref = 'kotlin'",
            "kotlin2, ",
        ),
        ('agp = "9.5.0"', 'agp = "new"', "in [versions] agp = 'new'", "like 9.5.0."),
        (JUNIT, 'junit = "junit:junit:4.13.2"', "in [libraries] junit = 'junit:junit:4.13.2'", LIBRARY),
        (
            JUNIT,
            'junit = { group = "junit", name = "junit", version.ref = "junit" }',
            "in [libraries] junit = {'group': ",
            LIBRARY,
        ),
        (JUNIT, JUNIT.replace("version.ref", "version.strictly"), "in [libraries] junit = {'module': ", LIBRARY),
        (JUNIT, JUNIT.replace('"junit:junit"', '"junit"'), "in [libraries] junit = {'module': 'junit', ", LIBRARY),
        (JUNIT, JUNIT.replace('"junit:junit"', "7"), "in [libraries] junit = {'module': 7, ", LIBRARY),
        ("executorch = { module", "runtime = { module", "lacks executorch in [libraries]", "takes the runtime."),
        (
            KOTLIN_JVM,
            'kotlin-jvm = { id = "org.jetbrains.kotlin.jvm", version = "2.4.21" }',
            "in [plugins] kotlin-jvm = {'id': ",
            PLUGIN,
        ),
        (KOTLIN_JVM, 'kotlin-jvm = "org.jetbrains.kotlin.jvm:2.4.21"', "in [plugins] kotlin-jvm = 'org.", PLUGIN),
        (KOTLIN_JVM, KOTLIN_JVM.replace("kotlin-jvm", "jvm"), "differ in the plugin jvm", "."),
        ("[plugins]", "[bundles]", "has [bundles]", "[versions], [libraries] and [plugins]."),
        ("[libraries]", "[versions.more]", "lacks [libraries]", "[versions], [libraries] and [plugins]."),
        ("[versions]", "plugins = 1\n[versions]", "is no TOML in UTF-8: ", "."),
    ],
)
def test_an_entry_that_is_written_in_another_way_is_named(gradle_project, old, new, named, works):
    path = gradle_project / catalog.CATALOG
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        lock.roots_of(read_project(gradle_project))
    said = str(caught.value)
    assert said.startswith(str(catalog.CATALOG))
    assert named in said
    assert works in said
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize("section", sorted(catalog.SECTIONS))
def test_a_section_that_is_none_or_not_there(gradle_project, section):
    path = gradle_project / catalog.CATALOG
    others = "".join(f"[{other}]\n" for other in sorted(catalog.SECTIONS - {section}))
    path.write_text(f"{section} = 1\n{others}", encoding="utf-8")
    with pytest.raises(BuildError, match=rf"has {section} = 1: write a table, \[{section}\]\.$"):
        catalog.read_catalog(gradle_project)
    path.write_text(others, encoding="utf-8")
    with pytest.raises(BuildError, match=rf"lacks \[{section}\]: this build reads"):
        catalog.read_catalog(gradle_project)


def test_a_catalog_that_is_no_text(gradle_project):
    (gradle_project / catalog.CATALOG).write_bytes(b"\xff")
    with pytest.raises(BuildError, match=r"libs\.versions\.toml is no TOML in UTF-8: "):
        catalog.read_catalog(gradle_project)
