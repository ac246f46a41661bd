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
