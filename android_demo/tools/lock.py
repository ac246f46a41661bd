"""Resolves the app's dependencies to a flat lock file, as Gradle would for the same build files.

The roots are the aliases that the build files of `core`, `engine` and `app` name, at the versions of the version
catalog; a file's scope is the module whose compiler sees it. Of several wanted versions of a module the highest wins,
modules of one AndroidX group agree on a version, and of a Kotlin multiplatform module the Android or JVM part is taken.
Run it after a change of the catalog or of dependencies: `make android-lock`.
"""

from __future__ import annotations

import hashlib
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

from artifacts import LOCK, Artifact, BuildError, NotServedError, cache_folder, download, keep, read_roots, write_lock
from catalog import CATALOG, RUNTIME
from gradle_files import Project, read_project

# The native library and classes of RUNTIME as an npm package ships them, for registries without org.pytorch.
RUNTIME_NPM = ("npm", "react-native-executorch", "0.9.3", "tgz")
# What only this build needs; Gradle brings its own. (scope, coordinate): with all that those of a scope depend on.
TOOL_CLOSURES = [
    ("compiler", "org.jetbrains.kotlin:kotlin-compiler-embeddable:{kotlin}"),
    # Dokka's command line is not in every registry: Kdoc.java is what it does.
    ("dokka", "org.jetbrains.dokka:dokka-core:2.2.0"),
    ("dokka", "org.jetbrains.dokka:dokka-base:2.2.0"),
    ("dokka", "org.jetbrains.dokka:analysis-kotlin-symbols:2.2.0"),
    ("merger", "com.android.tools.build:manifest-merger:{android-tools}"),
]
TOOLS = [
    ("tool", "com.android.tools.build:apksig:{agp}"),
    ("tool", "com.android.tools.build:gradle:{agp}"),  # for the rules for R8 inside
    ("tool", "com.android.tools:r8:9.5.28"),
    ("tool", "org.apktool:apktool-lib:3.0.3"),  # for the aapt2 inside
    ("tool", "org.jetbrains.kotlin:kotlin-compose-compiler-plugin-embeddable:{kotlin}"),
    ("tool", "org.jetbrains.kotlin:kotlin-serialization-compiler-plugin-embeddable:{kotlin}"),
    # For ApiCheck.java: Android's public API of minSdk, and of the highest level that there is such a file of.
    ("tool", "com.toasttab.android:gummy-bears-api-26:0.15.0"),
    ("tool", "com.toasttab.android:gummy-bears-api-33:0.10.0"),
    ("tool", "org.codehaus.mojo:animal-sniffer:1.27"),
    ("tool", "org.ow2.asm:asm:9.10.1"),
    ("tool", "org.robolectric:android-all:17-robolectric-16653203"),  # to compile against
    # For check_gradle.py: Gradle's API, the newest that was found, and that of its plugins.
    ("gradle", "dev.gradleplugins:gradle-api:8.11.1"),
    ("gradle", "com.android.tools.build:gradle-api:{agp}"),
    ("gradle", "org.jetbrains.kotlin:kotlin-assignment-compiler-plugin-embeddable:{kotlin}"),
    ("gradle", "org.jetbrains.kotlin:kotlin-gradle-plugin-api:{kotlin}"),
    ("gradle", "org.jetbrains.kotlin:kotlin-sam-with-receiver-compiler-plugin-embeddable:{kotlin}"),
    # Android 15: later ones are Java 21 bytecode, and the tests run on a JDK 17.
    ("robolectric", "org.robolectric:android-all:15-robolectric-13954326"),
    ("robolectric", "org.robolectric:android-all-instrumented:15-robolectric-13954326-i7"),
]


class Module(NamedTuple):
    """A module without its version."""

    group: str
    name: str


class Dependency(NamedTuple):
    """What a POM wants."""

    module: Module
    version: str


def coordinate(alias: str, project: Project) -> Dependency:
    """What an alias of the catalog stands for; the version is empty when a BOM decides it."""
    entry = project.catalog["libraries"][alias]
    version = entry.get("version", "")
    if isinstance(version, dict):
        version = project.catalog["versions"][version["ref"]]
    return Dependency(Module(*entry["module"].split(":")), version)


def tool_coordinates(project: Project, tools: Sequence[tuple[str, str]]) -> list[tuple[str, Dependency]]:
    """Tools with their scopes, at the versions of the catalog."""
    versions = dict(project.catalog["versions"])
    found = re.fullmatch(r"(\d+)(\..+)", versions["agp"])
    if not found:
        raise BuildError(f"{CATALOG} has in [versions] agp = {versions['agp']!r}; it has to be like 9.5.0.")
    versions["android-tools"] = f"{int(found[1]) + 23}{found[2]}"  # how Android numbers its libraries
    parts = [(scope, text.format(**versions).split(":")) for scope, text in tools]
    return [(scope, Dependency(Module(group, name), version)) for scope, (group, name, version) in parts]


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Sorts versions as Gradle does: numbers above words, a release above its previews."""
    parts = re.split(r"[.\-+]", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts] + [(0, 9, "")]


@cache
def pom(module: Module, version: str) -> ET.Element | None:
    """A module's POM; None where the registry has none."""
    artifact = Artifact("", module.group, module.name, version, "pom", "-")
    kept = cache_folder() / artifact.path
    if kept.is_file():
        content = kept.read_bytes()
    else:
        found = _first_served(artifact)
        if found is None:
            return None
        content = found
        keep(content, kept)
    return ET.fromstring(re.sub(rb"""xmlns=["'][^"']*["']""", b"", content, count=1))


def _first_served(artifact: Artifact) -> bytes | None:
    for repository in artifact.repositories:
        try:
            return download(f"{repository}/{artifact.path}")
        except NotServedError:
            continue
    return None


def _parent(root: ET.Element) -> ET.Element | None:
    parent = root.find("parent")
    if parent is None:
        return None
    return pom(
        Module(parent.findtext("groupId", ""), parent.findtext("artifactId", "")), parent.findtext("version", "")
    )


def _properties(root: ET.Element) -> dict[str, str]:
    parent = _parent(root)
    values = _properties(parent) if parent is not None else {}
    holders = [holder for holder in (root.find("parent"), root) if holder is not None]
    for holder in holders:
        for key in ("version", "groupId"):
            if holder.findtext(key):
                values[f"project.{key}"] = holder.findtext(key, "")
    for entry in root.findall("properties/*"):
        values[entry.tag] = (entry.text or "").strip()
    return values


def _fill(text: str | None, values: Mapping[str, str]) -> str:
    filled = text or ""
    for _ in range(4):  # properties may name properties
        filled = re.sub(r"\$\{([^}]+)\}", lambda match: values.get(match[1], match[0]), filled)
    return filled.strip()


def _plain(version: str) -> str:
    """The lower end of a version range."""
    return re.sub(r"[\[\]()]", "", version).split(",")[0]


def managed(module: Module, version: str) -> dict[Module, str]:
    """Versions that a POM (a BOM, or a module with constraints) sets for others."""
    root = pom(module, version)
    return _managed(root) if root is not None else {}


def _managed(root: ET.Element) -> dict[Module, str]:
    parent = _parent(root)
    versions = _managed(parent) if parent is not None else {}
    values = _properties(root)
    for entry in root.findall("dependencyManagement/dependencies/dependency"):
        module = Module(_fill(entry.findtext("groupId"), values), _fill(entry.findtext("artifactId"), values))
        version = _plain(_fill(entry.findtext("version"), values))
        if _fill(entry.findtext("scope"), values) == "import":
            versions |= managed(module, version)
        else:
            versions[module] = version
    return versions


def wanted(module: Module, version: str) -> list[Dependency]:
    """What a module depends on at run time."""
    root = pom(module, version)
    if root is None:
        raise BuildError(
            f"{module.group}:{module.name}:{version} has no POM in any repository: choose another version."
        )
    values, versions = _properties(root), _managed(root)
    dependencies = []
    for entry in root.findall("dependencies/dependency"):
        if _fill(entry.findtext("scope"), values) in ("test", "provided", "system"):
            continue
        if _fill(entry.findtext("optional"), values) == "true":
            continue
        needed = Module(_fill(entry.findtext("groupId"), values), _fill(entry.findtext("artifactId"), values))
        version_text = _plain(_fill(entry.findtext("version"), values)) or versions.get(needed, "")
        dependencies.append(Dependency(needed, version_text))
    # Not every multiplatform module's POM names its platform part; Gradle finds it in a file of its own.
    parts = [Module(module.group, f"{module.name}-{part}") for part in ("android", "jvm")]
    if not any(need.module in parts for need in dependencies):
        dependencies += [Dependency(part, version) for part in parts if pom(part, version) is not None][:1]
    return dependencies


def resolve(roots: Iterable[Dependency], constraints: Mapping[Module, str]) -> dict[Module, str]:
    """All that some modules need, each at the highest version that anything wants or constrains it to."""
    limits = dict(constraints)
    chosen: dict[Module, str] = {}
    while True:
        before = chosen
        found: dict[Module, str] = {}
        todo = list(roots)
        while todo:
            fresh = []
            for module, version in todo:
                candidates = [v for v in (version, limits.get(module), before.get(module)) if v and v != "unspecified"]
                if not candidates:
                    raise BuildError(f"nothing says which version of {module.group}:{module.name} to take.")
                best = max(candidates, key=version_key)
                if module not in found or version_key(found[module]) < version_key(best):
                    found[module] = best
                    fresh.append((module, best))
            with ThreadPoolExecutor(12) as executor:
                todo = [need for needs in executor.map(lambda pair: wanted(*pair), fresh) for need in needs]
        for module, version in found.items():
            if module.group.startswith("androidx."):  # their POMs hold the versions that the group agreed on
                for other, limit in managed(module, version).items():
                    if other in found and limit and version_key(limit) > version_key(limits.get(other, "0")):
                        limits[other] = limit
        if found == before:
            return found
        chosen = found


def with_files(modules: Mapping[Module, str]) -> dict[Module, str]:
    """Leaves out multiplatform modules whose Android or JVM part is there (they hold metadata only), and JVM parts
    beside Android ones.
    """

    def is_covered(module: Module) -> bool:
        stem = module.name.removesuffix("-jvm")
        parts = [f"{stem}-android"] if stem != module.name else [f"{stem}-android", f"{stem}-jvm"]
        return any(Module(module.group, part) in modules for part in parts) or module.name == "kotlin-stdlib-common"

    return {module: version for module, version in modules.items() if not is_covered(module)}


def lock_entry(
    scope: str, module: Module, version: str, kinds: tuple[str, ...] = ("aar", "jar", "signature")
) -> Artifact | None:
    """The module's file with its SHA-256; None for a module without a file (a BOM)."""
    for kind in kinds:
        artifact = Artifact(scope, module.group, module.name, version, kind, "-")
        content = _first_served(artifact)
        if content is not None:
            return Artifact(scope, module.group, module.name, version, kind, hashlib.sha256(content).hexdigest())
    return None


def within(roots: Iterable[Dependency], versions: Mapping[Module, str]) -> set[Module]:
    """The modules that some need, of those that were resolved."""
    found: set[Module] = set()
    todo = [root.module for root in roots]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += [need.module for need in wanted(module, versions[module])]
    return found


def _platforms(project: Project) -> list[Dependency]:
    return [coordinate(alias, project) for module in project.modules.values() for alias in module.platforms]


def _libraries(project: Project) -> list[tuple[str, Module, str]]:
    """Scope, module and version of all that the app and its tests need."""
    constraints: dict[Module, str] = {}
    for platform in _platforms(project):
        constraints |= managed(*platform)
    standard = Module("org.jetbrains.kotlin", "kotlin-stdlib")  # Kotlin's plugin adds it

    def roots(names: Iterable[str], *configurations: str) -> list[Dependency]:
        aliases = {alias for name in names for key in configurations for alias in project.modules[name].libraries[key]}
        library = Dependency(standard, project.catalog["versions"]["kotlin"])
        return [library, *(coordinate(alias, project) for alias in sorted(aliases - {RUNTIME}))]

    main, testing = ("api", "implementation"), ("api", "implementation", "testImplementation")
    app = resolve(roots(project.modules, *main), constraints)
    tests = resolve([*(Dependency(*item) for item in app.items()), *roots(project.modules, *testing)], constraints)
    raised = [f"{m.group}:{m.name} {app[m]} -> {tests[m]}" for m in app if tests[m] != app[m]]
    if raised:
        sys.stdout.write("Tests alone would raise these; they run with the app's versions: " + ", ".join(raised) + "\n")
    versions = tests | app
    # The first that has a module: what the engine implements itself with is not on the app's class path.
    scopes = {
        "core": within(roots(["core"], *main), versions),
        "app": within(roots(["app"], *main), versions),
        "engine": within(roots(["engine"], *main), versions),
        "core-test": within(roots(["core"], *testing), versions),
    }
    return [
        (next((scope for scope, modules in scopes.items() if module in modules), "test"), module, version)
        for module, version in [*with_files(app).items(), *with_files(tests).items()]
        if module not in app or version == app[module]
    ]


def roots_of(project: Project) -> str:
    """A hash of all that a lock is resolved from: each module's dependencies and platforms, and the tools."""
    named = [
        (f"{name} {configuration} {alias}", coordinate(alias, project))
        for name, module in project.modules.items()
        for configuration, aliases in [*module.libraries.items(), ("platform", module.platforms)]
        for alias in aliases
    ]
    named += tool_coordinates(project, [*TOOL_CLOSURES, *TOOLS])
    lines = sorted(f"{use} {need.module.group}:{need.module.name}:{need.version}" for use, need in named)
    return hashlib.sha256("\n".join([*lines, *RUNTIME_NPM]).encode()).hexdigest()


def make_lock(project: Project) -> list[Artifact]:
    """Resolves everything anew."""
    wanted_files = list(dict.fromkeys(_libraries(project)))
    closures: dict[str, list[Dependency]] = {}
    for scope, root in tool_coordinates(project, TOOL_CLOSURES):
        closures.setdefault(scope, []).append(root)
    for scope, roots in closures.items():
        wanted_files += [(scope, m, v) for m, v in with_files(resolve(roots, {})).items()]
    wanted_files += [(scope, *root) for scope, root in tool_coordinates(project, TOOLS)]
    with ThreadPoolExecutor(8) as executor:
        entries = list(executor.map(lambda item: lock_entry(*item), wanted_files))
    for (scope, module, version), entry in zip(wanted_files, entries, strict=True):
        if entry is None:
            sys.stdout.write(f"{scope}: {module.group}:{module.name}:{version} has no file; left out\n")

    runtime = coordinate(RUNTIME, project)
    maven = lock_entry("runtime", *runtime, ("aar",))
    group, name, version, kind = RUNTIME_NPM
    npm = lock_entry("runtime", Module(group, name), version, (kind,))
    # Where the registry does not serve the Maven artifact its hash stays unknown ('-'), and npm's pieces are used.
    unknown = Artifact("runtime", *runtime.module, runtime.version, "aar", "-")
    platforms = [lock_entry("platform", *need, ("pom",)) for need in _platforms(project)]
    return [entry for entry in [*entries, *platforms, maven or unknown, npm] if entry]


def check_lock(project: Project, lock: Iterable[Artifact]) -> None:
    """Stops where the lock was made from another catalog, or from other build files.

    Raises:
        BuildError: The message names the first difference.
    """
    locked: dict[tuple[str, str], dict[str, set[str]]] = {}
    for artifact in lock:
        locked.setdefault((artifact.group, artifact.name), {}).setdefault(artifact.version, set()).add(artifact.scope)

    def check(wanted_by: str, need: Dependency, scopes: set[str]) -> None:
        """A multiplatform module has its file under its platform's name."""
        names = [need.module.name, f"{need.module.name}-android", f"{need.module.name}-jvm"]
        found = {v: s for name in names for v, s in locked.get((need.module.group, name), {}).items() if s & scopes}
        if not found or (need.version and need.version not in found):
            module = f"{need.module.group}:{need.module.name}"
            has = " and ".join(sorted(found)) or "none for that"
            raise BuildError(
                f"{wanted_by} wants {module} {need.version or 'at the version of a BOM'}, and {LOCK.name} has {has}: "
                "run make android-lock."
            )

    visible = {"core": {"core"}, "engine": {"core", "engine", "app", "runtime"}, "app": {"core", "app"}}
    tests = {"core": {"core-test"}, "engine": set[str](), "app": {"core-test", "test"}}
    for name, module in project.modules.items():
        for configuration, aliases in module.libraries.items():
            scopes = visible[name] | (tests[name] if configuration.startswith("test") else set())
            for alias in aliases:
                check(f"{name}/build.gradle.kts", coordinate(alias, project), scopes)
    for need in _platforms(project):
        check("libs.versions.toml", need, {"platform"})
    for scope, need in tool_coordinates(project, [*TOOL_CLOSURES, *TOOLS]):
        check("lock.py", need, {scope})
    # The lock may have what nobody wants any more, or for a class path that does not see it now.
    if read_roots() != roots_of(project):
        raise BuildError(f"{LOCK.name} was made from other dependencies than the build has: run make android-lock.")


if __name__ == "__main__":
    try:
        project = read_project()
        locked = make_lock(project)
    except BuildError as error:
        sys.exit(str(error))
    write_lock(locked, roots_of(project))
    sys.stdout.write(f"{LOCK.name}: {len(locked)} files\n")
