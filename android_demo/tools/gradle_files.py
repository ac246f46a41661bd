"""What the Gradle files say, for the build in this folder: they are the only place for it.

A build script is read statement by statement, each written with the blocks it stands in: `android.defaultConfig.minSdk
= 26`. Every one is either read here, or is something that this build does in any case. A script that says anything else
is refused, as the APK would not be the one that Gradle makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from artifacts import ROOT, BuildError
from catalog import CATALOG, read_catalog

MODULES = ("core", "engine", "app")
CONFIGURATIONS = ("api", "implementation", "testImplementation")
JAVA = 17  # the JDK, and the bytecode
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|\s+|[^\s"{}()/;]+|.', re.DOTALL)
PAIRS = {")": "(", "}": "{"}
KINDS = {
    "plain text in quotes": r'"([^"$\\]+)"',
    "a number": r"(\d+)",
    "a list of plain texts": r'listOf\(("[\w.-]+"(?:, "[\w.-]+")*)\)',
}
# Android's plugin has this file inside.
DEFAULT_RULES = "proguard-android-optimize.txt"

# What this build does in any case, and so has to be said.
KOTLIN = (f"kotlin.jvmToolchain({JAVA})", "kotlin.compilerOptions.allWarningsAsErrors = true")
PUBLISHED = 'publishing.publications.register<MavenPublication>("release").from(components["{}"])'
DONE = {
    "core": (
        "plugins.alias(libs.plugins.kotlin.jvm)",
        "plugins.`maven-publish`",
        "java.withSourcesJar()",
        PUBLISHED.format("java"),
        *KOTLIN,
    ),
    "engine": (
        "plugins.alias(libs.plugins.android.library)",
        "plugins.`maven-publish`",
        'android.publishing.singleVariant("release").withSourcesJar()',
        f"afterEvaluate.{PUBLISHED.format('release')}",
        'dependencies.api(project(":core"))',
        *KOTLIN,
    ),
    "app": (
        "plugins.alias(libs.plugins.android.application)",
        "android.buildTypes.release.isMinifyEnabled = true",
        f'android.buildTypes.release.proguardFiles(getDefaultProguardFile("{DEFAULT_RULES}"))',
        'android.buildTypes.release.signingConfig = signingConfigs.getByName("debug")',
        "android.buildFeatures.compose = true",
        "android.testOptions.unitTests.all.it.enabled = false",  # this build runs them
        'dependencies.implementation(project(":engine"))',
        *KOTLIN,
    ),
}
# The plugins whose work this build does: their IDs, and the catalog's versions that they have.
PLUGINS = {
    "android-application": ("com.android.application", "agp"),
    "android-library": ("com.android.library", "agp"),
    "kotlin-compose": ("org.jetbrains.kotlin.plugin.compose", "kotlin"),
    "kotlin-jvm": ("org.jetbrains.kotlin.jvm", "kotlin"),
    "kotlin-serialization": ("org.jetbrains.kotlin.plugin.serialization", "kotlin"),
}
REPOSITORIES = ("google()", "mavenCentral()")
SETTINGS_DONE = (
    *(f"pluginManagement.repositories.{name}" for name in (*REPOSITORIES, "gradlePluginPortal()")),
    "dependencyResolutionManagement.repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS",
    *(f"dependencyResolutionManagement.repositories.{name}" for name in REPOSITORIES),
    'rootProject.name = "et-demo"',
    "include({})".format(", ".join(f'":{module}"' for module in MODULES)),
)
PROPERTIES_DONE = ("android.useAndroidX=true", "android.nonTransitiveRClass=true")
# Where a module's files may lie in its src/; Gradle looks into more folders than this build does.
SOURCES = {
    "core": r"(main|test)/kotlin/.*\.kt",
    "engine": r"main/kotlin/.*\.kt",
    "app": r"(main|test)/kotlin/.*\.kt|main/(AndroidManifest\.xml|res/.*|assets/.*)",
}
TEST_DATA = r"test/(?!(java|resources|assets|res)/).*(?<!\.kt)"


class Module(NamedTuple):
    """One of the projects.

    Attributes:
        compiler_plugins: Kotlin's, by their aliases in the catalog.
        libraries: Aliases by configuration, as the catalog spells them.
        platforms: Those that only set versions of others (BOMs).
    """

    compiler_plugins: list[str]
    libraries: dict[str, list[str]]
    platforms: list[str]


class AppSettings(NamedTuple):
    """The app's settings."""

    application: str
    namespace: str
    compile_sdk: str
    min_sdk: str
    target_sdk: str
    version_code: str
    version_name: str
    abis: list[str]
    no_compress: list[str]


class LibrarySettings(NamedTuple):
    """The engine's settings."""

    namespace: str
    compile_sdk: str
    min_sdk: str
    rules: Path


class Project(NamedTuple):
    """All that the Gradle files say."""

    group: str
    version: str
    modules: dict[str, Module]
    engine: LibrarySettings
    app: AppSettings
    catalog: Mapping[str, Any]


def statements(text: str, name: str) -> list[str]:
    """A script's statements, each with the blocks around it: 'android.defaultConfig.minSdk = 26'.

    Raises:
        BuildError: A brace or parenthesis has no other; `name` is the script's.
    """
    blocks: list[str] = []
    found: list[str] = []
    current, inside = "", ""  # the parentheses around it, and the braces in them
    for token in [*TOKEN.findall(text), ";"]:
        if token.startswith(("//", "/*")):
            continue
        if token in (")", "}") and not (inside.endswith(PAIRS[token]) or (token == "}" and blocks and not inside)):
            raise BuildError(f"{name} has a '{token}' without its '{PAIRS[token]}': add or remove one.")
        if inside or not (token in ("{", "}", ";") or "\n" in token):
            if token == "(" or (inside and token == "{"):
                inside += token
            elif token in PAIRS:
                inside = inside[:-1]
            current += " " if token.isspace() else token
            continue
        if token == "{":
            blocks.append(current.strip())
        elif current.strip():
            found.append(".".join([*blocks, current.strip()]))
        if token == "}":
            blocks.pop()
        current = ""
    if inside or blocks:
        raise BuildError(f"{name} has a '{inside[-1:] or '{'}' without its other half: add or remove one.")
    return found


class _Script:
    """A Gradle file, of which each statement is taken once; what is left at the end is refused."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        text = (root / name).read_text(encoding="utf-8")
        self.left = (
            statements(text, name) if name.endswith(".kts") else re.findall(r"^(?!\s*#)\s*(\S.*?)\s*$", text, re.M)
        )

    def calls(self, pattern: str) -> list[re.Match[str]]:
        """The statements that are like the pattern."""
        found = [match for text in self.left if (match := re.fullmatch(pattern, text))]
        self.left = [text for text in self.left if not re.fullmatch(pattern, text)]
        return found

    def value(self, key: str, kind: str = "plain text in quotes", sign: str = "=") -> str:
        """What is assigned to a key."""
        found = self.calls(rf"{re.escape(key)} {re.escape(sign)} {KINDS[kind]}")
        if len(found) != 1:
            raise BuildError(f"{self.name} has to set {key} once, to {kind}; it does {len(found)} times.")
        return found[0][1]

    def number(self, key: str) -> str:
        """The number that is assigned to a key; in quotes it would be none for Gradle."""
        return self.value(key, "a number")

    def values(self, key: str) -> list[str]:
        """The list that is added to a key."""
        return re.findall(r'"([^"]+)"', self.value(key, "a list of plain texts", "+="))

    def done(self, *texts: str) -> None:
        """Takes what this build does in any case."""
        for text in texts:
            if self.left.count(text) != 1:
                raise BuildError(f"{self.name} has to say '{text}' once, as {Path(__file__).parent.name}/ does that.")
            self.left.remove(text)

    def end(self) -> None:
        """Refuses what nobody took."""
        if self.left:
            raise BuildError(
                f"{self.name} says '{self.left[0]}', which {Path(__file__).parent.name}/ does not do: build with "
                f"Gradle, or have {Path(__file__).name} read it."
            )


def read_project(root: Path = ROOT) -> Project:
    """Reads all Gradle files.

    Raises:
        BuildError: They say something that this build does not do.
    """
    catalog = read_catalog(root)
    plugins = {alias: (entry["id"], entry["version"]["ref"]) for alias, entry in catalog["plugins"].items()}
    if plugins != PLUGINS:
        wrong = sorted(set(plugins.items()) ^ set(PLUGINS.items()))[0][0]
        raise BuildError(f"{CATALOG} and {Path(__file__).name} differ in the plugin {wrong}.")
    settings = _Script(root, "settings.gradle.kts")
    settings.done(*SETTINGS_DONE)
    settings.end()
    properties = _Script(root, "gradle.properties")
    properties.done(*PROPERTIES_DONE)
    properties.calls(r"org\.gradle\..*")  # how Gradle runs, and nothing that it makes
    properties.end()
    main = _Script(root, "build.gradle.kts")
    main.done(*(f"plugins.alias(libs.plugins.{_accessor(alias)}) apply false" for alias in PLUGINS))
    group, version = main.value("subprojects.group"), main.value("subprojects.version")
    main.end()
    scripts = {name: _Script(root, f"{name}/build.gradle.kts") for name in MODULES}
    modules = {name: _read_module(name, script, catalog) for name, script in scripts.items()}
    engine, app = _read_engine(root, scripts["engine"]), _read_app(scripts["app"])
    for name, script in scripts.items():
        script.end()
        _check_sources(root, name)
    if engine.compile_sdk != app.compile_sdk or int(engine.min_sdk) > int(app.min_sdk):
        raise BuildError("engine and app need one compileSdk, and the engine's minSdk must not be above the app's.")
    return Project(group, version, modules, engine, app, catalog)


def _accessor(alias: str) -> str:
    return re.sub(r"[-_]", ".", alias)


def _read_module(name: str, script: _Script, catalog: Mapping[str, Any]) -> Module:
    plugins, libraries = ({_accessor(alias): alias for alias in catalog[kind]} for kind in ("plugins", "libraries"))
    script.done(*DONE[name])
    compiler = [
        match[1] for match in script.calls(r"plugins\.alias\(libs\.plugins\.(kotlin\.(?:compose|serialization))\)")
    ]
    module = Module([plugins[accessor] for accessor in compiler], {key: [] for key in CONFIGURATIONS}, [])
    kinds = "|".join(CONFIGURATIONS)
    for match in script.calls(rf"dependencies\.({kinds})\((platform\()?libs\.([\w.]+)\)?\)"):
        configuration, platform, accessor = match.groups()
        if accessor not in libraries:
            raise BuildError(f"{script.name} names libs.{accessor}, which is not in the version catalog.")
        (module.platforms if platform else module.libraries[configuration]).append(libraries[accessor])
    return module


def _read_engine(root: Path, script: _Script) -> LibrarySettings:
    rules = script.calls(r'android\.defaultConfig\.consumerProguardFiles\("([\w.-]+)"\)')
    if len(rules) != 1:
        raise BuildError(f"{script.name} has to name one file with consumerProguardFiles.")
    return LibrarySettings(
        namespace=script.value("android.namespace"),
        compile_sdk=script.number("android.compileSdk"),
        min_sdk=script.number("android.defaultConfig.minSdk"),
        rules=root / "engine" / rules[0][1],
    )


def _read_app(script: _Script) -> AppSettings:
    defaults = "android.defaultConfig"
    return AppSettings(
        application=script.value(f"{defaults}.applicationId"),
        namespace=script.value("android.namespace"),
        compile_sdk=script.number("android.compileSdk"),
        min_sdk=script.number(f"{defaults}.minSdk"),
        target_sdk=script.number(f"{defaults}.targetSdk"),
        version_code=script.number(f"{defaults}.versionCode"),
        version_name=script.value(f"{defaults}.versionName"),
        abis=script.values(f"{defaults}.ndk.abiFilters"),
        no_compress=script.values("android.androidResources.noCompress"),
    )


def _check_sources(root: Path, module: str) -> None:
    folder = root / module / "src"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = re.fullmatch(f"{SOURCES[module]}|{TEST_DATA}", name) or path.name.startswith(".")
        if path.is_file() and not known:
            raise BuildError(f"{module}/src/{name} is in no folder that both builds read: move it.")
