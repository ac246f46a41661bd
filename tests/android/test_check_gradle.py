from __future__ import annotations

import shutil

import artifacts
import check_gradle
import gradle_files
import pytest
from artifacts import BuildError

CATALOG = gradle_files.read_project().catalog
# In a script: what is written there, a mistake, and what of it the compiler cannot make out.
MISTAKES = {
    "settings.gradle.kts": ("FAIL_ON_PROJECT_REPOS", "FAIL_ON_REPOS", "FAIL_ON_REPOS"),
    "build.gradle.kts": ("libs.plugins.kotlin.jvm", "libs.plugins.kotlin.jwm", "jwm"),
    "core/build.gradle.kts": ("withSourcesJar", "withSourceJar", "withSourceJar"),
    "engine/build.gradle.kts": ("    `maven-publish`\n", "", "publishing"),
    "app/build.gradle.kts": ("compileSdk = 37", "compileSdkk = 37", "compileSdkk"),
}


def test_accessors_follow_the_parts_of_an_alias():
    """`roborazzi` is a library, and has `compose` beside."""
    catalog = {"libraries": {"roborazzi": {}, "roborazzi-compose": {}, "junit": {}}, "plugins": {"kotlin-jvm": {}}}
    text = check_gradle.catalog_accessors(catalog)
    library = f"org.gradle.api.provider.Provider<{check_gradle.LIBRARY}>"
    assert f"interface Libraries_roborazzi : {library} {{ val compose: Libraries_roborazzi_compose }}" in text
    assert "{ val junit: Libraries_junit; val roborazzi: Libraries_roborazzi; val plugins: Plugins }" in text
    assert "interface Plugins_kotlin { val jvm: Plugins_kotlin_jvm }" in text


@pytest.mark.parametrize("module", gradle_files.MODULES)
def test_a_script_has_the_accessors_of_the_plugins_that_it_applies(module):
    text = (artifacts.ROOT / module / "build.gradle.kts").read_text(encoding="utf-8")
    applied = check_gradle.applied_plugins(text, CATALOG)
    assert len(applied) == text[: text.index("}")].count("\n") - 1  # a line each
    assert set(applied) <= set(check_gradle.EXTENSIONS)


def test_plugins_that_are_only_made_available_are_not_applied():
    text = (artifacts.ROOT / "build.gradle.kts").read_text(encoding="utf-8")
    assert "apply false" in text
    assert check_gradle.applied_plugins(text, CATALOG) == []


def test_an_unknown_plugin_is_named(gradle_project):
    path = gradle_project / "app" / "build.gradle.kts"
    path.write_text(path.read_text(encoding="utf-8").replace("libs.plugins.kotlin.compose", "libs.plugins.other"))
    with pytest.raises(BuildError, match=r"^app/build\.gradle\.kts applies other, whose extensions"):
        check_gradle.sources(gradle_project, CATALOG, [])


def test_lines_keep_their_numbers(gradle_project):
    texts = check_gradle.sources(gradle_project, CATALOG, ["org.gradle.api"])
    script = (gradle_project / "app" / "build.gradle.kts").read_text(encoding="utf-8").splitlines()
    assert texts["app_build_gradle_kts.kt"].splitlines()[1 : len(script)] == script[1:]


def test_all_that_runs_comes_from_the_jdk_that_is_named(tmp_path, monkeypatch, program, capsys):
    """Not every PATH has its javap."""
    program(tmp_path / "jdk" / "bin" / "javac", "print('javac 17.0.9')")
    program(tmp_path / "jdk" / "bin" / "javap", "")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("PATH", "/none")

    def read_lock():
        raise BuildError(f"javap is {shutil.which('javap')}")

    monkeypatch.setattr(check_gradle, "read_lock", read_lock)
    with pytest.raises(SystemExit):
        check_gradle.main()
    assert capsys.readouterr().err == f"javap is {tmp_path / 'jdk' / 'bin' / 'javap'}\n"


@pytest.fixture(scope="module")
def apis():
    """The APIs and the compiler, by scope."""
    found = {
        scope: [artifacts.cache_folder() / a.path for a in artifacts.read_lock() if a.scope == scope]
        for scope in ("gradle", "compiler")
    }
    if not all(path.is_file() for paths in found.values() for path in paths):
        pytest.skip("Gradle's API is not in the cache: make check-gradle downloads it")
    if not shutil.which("java"):
        pytest.skip("no JDK")
    return found


def _compile(project, folder, apis):
    folder.mkdir()
    check_gradle.compile_scripts(project, folder, apis["gradle"], apis["compiler"])


@pytest.mark.slow
def test_the_compiler_finds_a_mistake_in_each_script_and_nothing_else(gradle_project, tmp_path, apis, capsys):
    for script, (right, wrong, _) in MISTAKES.items():
        path = gradle_project / script
        text = path.read_text(encoding="utf-8")
        assert right in text
        path.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(BuildError, match=r"K2JVMCompiler failed, see above\.$"):
        _compile(gradle_project, tmp_path / "out", apis)
    errors = [line for line in capsys.readouterr().out.splitlines() if ": error: " in line]
    for script, (_, _, named) in MISTAKES.items():
        name = script.replace("/", "_").replace(".", "_")
        mine = [line for line in errors if f"/{name}.kt:" in line]
        assert any(f"'{named}'" in line for line in mine), script
        errors = [line for line in errors if line not in mine]
    assert errors == []


@pytest.mark.parametrize(("version", "refused"), [("9.6.0", False), ("9.10", False), ("9.5.0", True), ("8.14.3", True)])
def test_a_wrapper_that_androids_plugin_would_refuse_is_refused(tmp_path, monkeypatch, version, refused):
    said = 'public static final java.lang.String GRADLE_LATEST_VERSION = "9.6.0";'
    monkeypatch.setattr(check_gradle, "run", lambda *_: said)
    path = tmp_path / check_gradle.WRAPPER
    path.parent.mkdir(parents=True)
    path.write_text(f"distributionUrl=https\\://services.gradle.org/distributions/gradle-{version}-bin.zip\n")
    if refused:
        with pytest.raises(BuildError, match=rf"has Gradle {version}, and Android's plugin wants 9\.6\.0 or newer\.$"):
            check_gradle.check_wrapper(tmp_path, tmp_path)
    else:
        check_gradle.check_wrapper(tmp_path, tmp_path)
