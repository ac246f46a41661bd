"""Compiles and runs the tests of core, of the app and of the second app in JVMs of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import host
from artifacts import ROOT, BuildError
from compiling import APP, CORE, Resources, compile_app, compile_kotlin, link_resources
from gradle_files import AppSettings
from library import SAMPLE, check_library, compile_sample
from package import check_bundle
from steps import BUILD, class_path, run, say, step
from toolbox import Toolbox, prepare

SDK_OF_TESTS = "15-"  # of the Robolectric artifacts


def test_classes(sources: Path, filters: Sequence[str]) -> list[str]:
    """Names of the test classes of a source folder, the longest files first."""
    files = sorted(sources.rglob("*Test.kt"), key=lambda file: -file.stat().st_size)
    names = [".".join(file.relative_to(sources / "kotlin").with_suffix("").parts) for file in files]
    return [name for name in names if not filters or any(text in name for text in filters)]


class Tests(NamedTuple):
    """Test classes that one JVM runs."""

    name: str
    classes: list[str]
    path: str
    options: list[str]


def run_tests(groups: Sequence[Tests], tools: Toolbox) -> bool:
    """Runs groups of tests side by side, one JVM each; says what failed."""
    source, junit = Path(__file__).with_name("RunTests.java"), tools.jars_of("core-test")

    def compile_runner(folder: Path) -> None:
        run("javac", "-cp", class_path(junit), "-d", folder, source)

    runner = step("runner", "the test runner", [source, *junit], compile_runner)
    results = BUILD / "test-results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    running = []
    for group in groups:
        say(f"testing {group.name}: {len(group.classes)} classes")
        output = (results / f"{group.name}.log").open("wb")
        command = [
            "java",
            "-Xmx2g",
            f"-XX:ErrorFile={results}/crash_%p.log",
            *group.options,
            "-cp",
            class_path(runner) + os.pathsep + group.path,
            "RunTests",
        ]
        command += [str(results / f"{group.name}.txt"), *group.classes]
        running.append((group, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT / "app")))
    passed = failed = skipped = 0
    for group, process in running:
        code = process.wait()
        report = results / f"{group.name}.txt"  # not there when the JVM did not even start
        text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
        passed += len(re.findall(r"^PASSED", text, re.MULTILINE))
        skipped += len(re.findall(r"^SKIPPED", text, re.MULTILINE))
        failures = re.findall(r"^FAILED\t.*\n(?:\t.*\n?)*", text, re.MULTILINE)
        failed += len(failures)
        sys.stdout.write("".join(failures))
        if not text.endswith("DONE\n") or bool(code) != bool(failures):
            failed += 1
            log = (results / f"{group.name}.log").read_text(encoding="utf-8", errors="replace")
            sys.stdout.write(
                log[-4000:] + f"\nThe JVM of {group.name} ended with {code}; all it printed is in {results}\n"
            )
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return not failed and passed > 0


def _write_config(settings: AppSettings, resources: Resources, installed: Path) -> Path:
    """A folder for the class path that tells Robolectric what the app is."""
    folder = BUILD / "test-config"
    config = folder / "com" / "android" / "tools" / "test_config.properties"
    config.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        "android_custom_package": settings.namespace,
        "android_merged_manifest": resources.manifest,
        "android_resource_apk": installed,
    }
    config.write_text("".join(f"{key}={value}\n" for key, value in entries.items()))
    return folder


def _link_frameworks(tools: Toolbox) -> Path:
    """A folder with Robolectric's builds of Android."""
    folder = BUILD / "robolectric"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in tools.jars["robolectric"]:
        (folder / file.name).symlink_to(file)
    return folder


def _make_host(tools: Toolbox) -> Path:
    """A folder with Android's native libraries, ready for a JVM of this machine."""
    libraries = [tools.runtime / "x86_64" / "libexecutorch.so"]
    for aar in tools.packed:
        libraries += [so for so in (aar / "jni" / "x86_64").glob("*.so") if so.name in host.ANDROID]
    target = host.this_machine()
    inputs = [*libraries, host.SOURCES, Path(host.__file__)]
    return step(
        "host", "Android's libraries for this JVM", inputs, lambda folder: host.make_host(libraries, folder, target)
    )


def _android_options(tools: Toolbox, place: Path, *, record: bool) -> list[str]:
    """What a JVM with Robolectric's Android and the native libraries in `place` is started with."""
    return [
        f"-agentpath:{place}/libandroidhost.so",
        f"-Djava.library.path={place}",
        "--add-opens=java.base/java.io=ALL-UNNAMED",  # for Robolectric's ParcelFileDescriptor
        # A native library belongs to one class loader, and Robolectric has one for each sandbox.
        "-Dorg.robolectric.packagesToNotAcquire=org.pytorch.,com.facebook.",
        "-Drobolectric.offline=true",
        f"-Drobolectric.dependency.dir={_link_frameworks(tools)}",
        f"-Droborazzi.test.{'record' if record else 'verify'}=true",
    ]


def make_tests(bundle: Path | None, references: Path | None, filters: Sequence[str], *, record: bool) -> bool:
    """Compiles and runs the tests; returns whether all passed."""
    tools = prepare()
    settings = tools.project.app
    resources = link_resources(tools, settings, debuggable=True)
    classes = compile_app(tools, resources)
    core, engine, app = classes
    properties = {}
    installed = BUILD / "installed.apk"  # what the tests' Android has as the app's file
    shutil.copy(resources.apk, installed)
    if bundle:
        with zipfile.ZipFile(installed, "a") as archive:
            for name, source in check_bundle(bundle).items():
                archive.write(source, f"assets/bundles/{bundle.resolve().name}/{name}")
        properties["et.bundle"] = str(bundle.resolve())
    if references:
        properties["et.references"] = str(references.resolve())
    properties["et.manifest"] = str(resources.manifest)
    options = [f"-D{key}={value}" for key, value in properties.items()]

    groups = []
    if names := test_classes(CORE / "test", filters):
        path = class_path(core, tools.jars_of("core-test", "core"))
        compiled = compile_kotlin(tools, "core-test", CORE / "test", path, f"-Xfriend-paths={core}", module="core")
        groups.append(Tests("core", names, class_path(compiled) + os.pathsep + path, options))
    place = _make_host(tools)
    made = (app, engine, core, resources.classes)
    seen = class_path(made, tools.jars_of("core-test", "test", "core", "app"), tools.android)
    (android,) = (file for file in tools.jars["robolectric"] if file.name.startswith(f"android-all-{SDK_OF_TESTS}"))
    config = _write_config(settings, resources, installed)
    running = class_path(made, tools.jars_of("core-test", "test"), tools.libraries, config, android)
    options = [*options, *_android_options(tools, place, record=record)]
    if names := test_classes(APP / "test", filters):
        compiled = compile_kotlin(tools, "app-test", APP / "test", seen, f"-Xfriend-paths={app}", module="app")
        shares = min(len(names), 2 if (os.cpu_count() or 1) > 1 else 1)
        own = class_path(compiled) + os.pathsep + running
        groups += [Tests(f"app-{index + 1}", names[index::shares], own, options) for index in range(shares)]
    whole, names = bool(bundle and not filters), test_classes(SAMPLE / "test", filters)
    sample = compile_sample(tools, classes) if whole or names else ""
    if names:
        compiled = compile_kotlin(tools, "sample-test", SAMPLE / "test", sample + os.pathsep + seen)
        path = os.pathsep.join([str(compiled), sample, running])
        groups.append(Tests("sample", names, path, options))
    if not groups:
        raise BuildError(f"No test class has {' or '.join(filters)} in its name.")
    passed = run_tests(groups, tools)
    if bundle and whole:
        passed = check_library(sample, place, bundle) and passed
    return passed
