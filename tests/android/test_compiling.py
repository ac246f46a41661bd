from __future__ import annotations

import compiling
import pytest
from artifacts import BuildError


def _manifest(path, *lines):
    text = "\n".join(['<manifest xmlns:android="http://schemas.android.com/apk/res/android">', *lines, "</manifest>"])
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "line",
    [
        '<uses-permission android:name="android.permission.INTERNET" />',
        '<uses-permission\n    android:maxSdkVersion="30"\n    android:name="android.permission.INTERNET" />',
        '<uses-permission-sdk-23 android:name="android.permission.INTERNET"/>',
    ],
)
def test_an_app_that_asks_for_the_network_is_refused(tmp_path, line):
    own = '<uses-permission android:name="org.x.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION" />'
    with pytest.raises(BuildError, match=r"asks for android\.permission\.INTERNET, and the app must ask for nothing"):
        compiling.check_permissions(_manifest(tmp_path / "AndroidManifest.xml", own, line))


def test_the_permission_that_an_app_has_for_itself_is_let_through(tmp_path):
    own = '<uses-permission android:name="org.x.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION" />'
    manifest = _manifest(tmp_path / "AndroidManifest.xml", own, '<application android:label="x" />')
    compiling.check_permissions(manifest)
    assert compiling.permissions_of(manifest) == ["org.x.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION"]


def test_the_apps_own_manifest_asks_for_nothing():
    manifest = compiling.APP / "main" / "AndroidManifest.xml"
    assert "<application" in manifest.read_text(encoding="utf-8")
    assert compiling.permissions_of(manifest) == []


def test_kotlin_is_compiled_anew_after_a_change_of_a_library_or_of_the_compiler(made_tools, tmp_path, monkeypatch):
    """The classes of an AAR are 'classes.jar' in every one."""
    ran = []
    monkeypatch.setattr(compiling, "run", lambda *command: ran.append(command))
    monkeypatch.setattr(compiling, "jdk", lambda: tmp_path)
    (tmp_path / "sources").mkdir()
    path = compiling.class_path(made_tools.jars_of("app"))

    def repeated():
        ran.clear()
        compiling.compile_kotlin(made_tools, "core", tmp_path / "sources", path, module="core")
        return len(ran)

    assert [repeated(), repeated()] == [1, 0]
    plugin = made_tools.tool("kotlin-serialization-")
    for changed in [*made_tools.jars["app"], *made_tools.jars["compiler"], plugin]:
        changed.write_bytes(b"another")
        assert repeated() == 1, changed


def test_resources_are_linked_anew_after_a_change_of_whatever_makes_them(made_tools, monkeypatch):
    merged = []

    def run(*command):
        if "com.android.manifmerger.Merger" in command:
            merged.append(command)
            _manifest(command[command.index("--out") + 1], "<application />")

    monkeypatch.setattr(compiling, "run", run)

    def repeated():
        merged.clear()
        compiling.link_resources(made_tools, made_tools.project.app, debuggable=True)
        return len(merged)

    assert [repeated(), repeated()] == [1, 0]
    for path in [*made_tools.jars["merger"], made_tools.aapt2, made_tools.android]:
        path.write_bytes(b"another")
        assert repeated() == 1, path
    manifest = made_tools.aars["app"][0] / "AndroidManifest.xml"
    manifest.write_text('<manifest package="org.other" />')
    assert repeated() == 1
