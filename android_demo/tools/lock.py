"""Resolves the app's dependencies to a flat lock file, as Gradle would for the same build files.

The roots are the aliases that the build files of `core`, `engine` and `app` name, at the versions of the version
catalog. Of several wanted versions of a module the highest wins, modules of one AndroidX group agree on a version, and
of a Kotlin multiplatform module the Android or JVM part is taken. Run it after a change of the catalog:
`make android-lock`.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

from artifacts import LOCK, ROOT, Artifact, BuildError, NotServedError, cache_folder, download, keep, write_lock

CATALOG = ROOT / "gradle" / "libs.versions.toml"
RUNTIME = "executorch"  # its alias; resolved by hand, see RUNTIME_NPM
# The same native library and classes as an npm package ships them, for registries without org.pytorch.
RUNTIME_NPM = ("npm", "react-native-executorch", "0.9.3", "tgz")
# What only this build needs; Gradle brings its own. By scope, with all that they depend on.
TOOL_CLOSURES = {
    "compiler": ["org.jetbrains.kotlin:kotlin-compiler-embeddable:{kotlin}"],
    # Its command line is not in every registry: Kdoc.java is what it does.
    "dokka": [f"org.jetbrains.dokka:{part}:2.2.0" for part in ("dokka-core", "dokka-base", "analysis-kotlin-symbols")],
    "merger": ["com.android.tools.build:manifest-merger:32.5.0"],
}
TOOLS = [
    ("tool", "com.android.tools.build:apksig:9.5.0"),
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


def catalog() -> dict[str, Any]:
    """The version catalog."""
    return tomllib.loads(CATALOG.read_text(encoding="utf-8"))


def direct_dependencies(project: str, configurations: Iterable[str]) -> list[str]:
    """Aliases (as the catalog spells them) that a project's build file names in the given configurations."""
    text = (ROOT / project / "build.gradle.kts").read_text(encoding="utf-8")
    names = "|".join(configurations)
    found = re.findall(rf"^\s*(?:{names})\((?:platform\()?libs\.([\w.]+)\)", text, re.MULTILINE)
    return [alias.replace(".", "-") for alias in found]


def coordinate(alias: str, libraries: Mapping[str, Any], versions: Mapping[str, str]) -> Dependency:
    """What an alias stands for; the version is empty when the BOM decides it."""
    entry = libraries[alias]
    version = entry.get("version", "")
    if isinstance(version, dict):
        version = versions[version["ref"]]
    return Dependency(Module(*entry["module"].split(":")), version)


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


def make_lock() -> list[Artifact]:
    """Resolves everything anew."""
    content = catalog()
    versions, libraries = content["versions"], content["libraries"]
    bom = coordinate("compose-bom", libraries, versions)
    constraints = managed(*bom)

    def roots(*configurations: str) -> list[Dependency]:
        aliases = {
            alias for project in ("core", "engine", "app") for alias in direct_dependencies(project, configurations)
        }
        skipped = {RUNTIME, "compose-bom"}
        library = Dependency(Module("org.jetbrains.kotlin", "kotlin-stdlib"), versions["kotlin"])  # by Kotlin's plugin
        return [library, *(coordinate(alias, libraries, versions) for alias in sorted(aliases - skipped))]

    app = resolve(roots("api", "implementation"), constraints)
    tests = resolve([*(Dependency(*item) for item in app.items()), *roots("testImplementation")], constraints)
    raised = [f"{m.group}:{m.name} {app[m]} -> {tests[m]}" for m in app if tests[m] != app[m]]
    if raised:
        sys.stdout.write("Tests alone would raise these; they run with the app's versions: " + ", ".join(raised) + "\n")
    wanted_files = [("app", m, v) for m, v in with_files(app).items()]
    wanted_files += [("test", m, v) for m, v in with_files(tests).items() if m not in app]
    for scope, texts in TOOL_CLOSURES.items():
        parts = [text.format(**versions).split(":") for text in texts]
        closure = resolve([Dependency(Module(group, name), version) for group, name, version in parts], {})
        wanted_files += [(scope, m, v) for m, v in with_files(closure).items()]
    for scope, text in TOOLS:
        group, name, version = text.format(**versions).split(":")
        wanted_files.append((scope, Module(group, name), version))
    with ThreadPoolExecutor(8) as executor:
        entries = list(executor.map(lambda item: lock_entry(*item), wanted_files))
    for (scope, module, version), entry in zip(wanted_files, entries, strict=True):
        if entry is None:
            sys.stdout.write(f"{scope}: {module.group}:{module.name}:{version} has no file; left out\n")

    runtime = coordinate(RUNTIME, libraries, versions)
    maven = lock_entry("runtime", *runtime, ("aar",))
    group, name, version, kind = RUNTIME_NPM
    npm = lock_entry("runtime", Module(group, name), version, (kind,))
    # Where the registry does not serve the Maven artifact its hash stays unknown ('-'), and npm's pieces are used.
    unknown = Artifact("runtime", *runtime.module, runtime.version, "aar", "-")
    return [entry for entry in [*entries, maven or unknown, npm] if entry]


if __name__ == "__main__":
    try:
        locked = make_lock()
    except BuildError as error:
        sys.exit(str(error))
    write_lock(locked)
    sys.stdout.write(f"{LOCK.name}: {len(locked)} files\n")
