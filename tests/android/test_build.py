from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import build
import pytest
from artifacts import BuildError

# ----------------------------------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs a step over a folder of inputs, and keeps count."""
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    inputs = tmp_path / "inputs"
    (inputs / "values").mkdir(parents=True)
    (inputs / "values" / "strings.xml").write_text("one")

    def work(folder):
        make.count += 1
        assert list(folder.iterdir()) == []
        (folder / "out").write_text(f"made {make.count}")

    def make(*more):
        return build.step("some", "making some", [inputs, *more], work)

    make.count, make.inputs = 0, inputs
    return make


def test_a_step_is_not_repeated_while_its_inputs_stay(make):
    folder = make("17", ("-a", "-b"))
    assert folder == build.BUILD / "some"
    assert make("17", ("-a", "-b")) == folder
    assert make.count == 1
    assert (folder / "out").read_text() == "made 1"


@pytest.mark.parametrize("change", ["content", "name", "moved", "added", "removed", "option", "output"])
def test_a_step_is_repeated_after_any_change(make, change):
    make("17")
    file = make.inputs / "values" / "strings.xml"
    if change == "content":
        file.write_text("two")
    elif change == "name":
        file.rename(file.with_name("plurals.xml"))
    elif change == "moved":  # a resource for another language has the same name and may have the same content
        file.parent.rename(make.inputs / "values-de")
    elif change == "added":
        (make.inputs / "values" / "more.xml").write_text("")
    elif change == "removed":
        file.unlink()
    elif change == "output":
        shutil.rmtree(build.BUILD / "some")
    make("18" if change == "option" else "17")
    assert make.count == 2
    assert (build.BUILD / "some" / "out").read_text() == "made 2"


def test_a_checkout_in_another_place_has_the_same_fingerprint(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src" / "A.kt").write_text("class A")
        (tmp_path / name / "rules.pro").write_text("-keep")
    prints = {
        build.fingerprint([tmp_path / name / "src", tmp_path / name / "rules.pro", "x"]) for name in ("here", "there")
    }
    assert len(prints) == 1


def test_a_step_that_fails_is_made_again_from_nothing(make):
    make()

    def fail(folder):
        (folder / "half").write_text("half")
        raise BuildError("the tool failed")

    with pytest.raises(BuildError):
        build.step("some", "making some", ["changed"], fail)
    assert not (build.BUILD / "some.stamp").exists()
    make()  # the inputs of the first time, and yet it must not be taken for made
    assert make.count == 2
    assert [path.name for path in (build.BUILD / "some").iterdir()] == ["out"]


# ----------------------------------------------------------------------------------------------------------------------
# Checks of what is put in
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    """The files of a bundle as far as the build looks at them."""
    folder = tmp_path / "bundle"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.pte").write_bytes(b"program")
    (folder / "tokenizer" / "tokenizer.json").write_bytes(b"{}")
    listed = {
        name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), "size_bytes": 1}
        for name in ("model.pte", "tokenizer/tokenizer.json")
    }
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    return folder


def test_check_bundle_gives_the_listed_files_and_the_manifest_and_nothing_else(bundle):
    (bundle / "note.txt").write_text("not listed")
    files = build.check_bundle(bundle)
    assert set(files) == {"manifest.json", "model.pte", "tokenizer/tokenizer.json"}
    assert all(path == bundle / name for name, path in files.items())


def test_check_bundle_says_in_one_sentence_what_is_missing_or_altered(bundle, tmp_path):
    with pytest.raises(
        BuildError, match=r"nowhere is no bundle: it has no manifest\.json; make one with 'make demo'\.$"
    ):
        build.check_bundle(tmp_path / "nowhere")
    (bundle / "model.pte").write_bytes(b"programm")
    with pytest.raises(BuildError, match=r"model\.pte was altered: its SHA-256 is not the manifest's\.$"):
        build.check_bundle(bundle)
    (bundle / "model.pte").unlink()
    with pytest.raises(BuildError, match=r"bundle lacks 'model\.pte', which its manifest lists\.$"):
        build.check_bundle(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": {}}}', b'{"files": {"a": 1}}', b'"files"'],
)
def test_check_bundle_refuses_a_manifest_that_is_none(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BuildError, match=r"manifest\.json is no bundle manifest \("):
        build.check_bundle(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_check_bundle_refuses_files_outside_of_the_bundle(bundle, name):
    (bundle.parent / "outside").write_bytes(b"")
    entry = {"sha256": hashlib.sha256(b"").hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps({"files": {name: entry}}))
    with pytest.raises(BuildError, match="outside of the bundle"):
        build.check_bundle(bundle)


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
        build.check_permissions(_manifest(tmp_path / "AndroidManifest.xml", own, line))


def test_the_permission_that_an_app_has_for_itself_is_let_through(tmp_path):
    own = '<uses-permission android:name="org.x.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION" />'
    manifest = _manifest(tmp_path / "AndroidManifest.xml", own, '<application android:label="x" />')
    build.check_permissions(manifest)
    assert build.permissions_of(manifest) == ["org.x.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION"]


def test_the_apps_own_manifest_asks_for_nothing():
    manifest = build.APP / "main" / "AndroidManifest.xml"
    assert "<application" in manifest.read_text(encoding="utf-8")
    assert build.permissions_of(manifest) == []


# ----------------------------------------------------------------------------------------------------------------------
# Tests of the app
# ----------------------------------------------------------------------------------------------------------------------


def test_test_classes_are_the_longest_first_and_filtered_by_parts_of_their_names(tmp_path):
    folder = tmp_path / "kotlin" / "org" / "x"
    folder.mkdir(parents=True)
    for name, size in {"ShortTest": 1, "chat/LongTest": 30, "chat/MiddleTest": 20, "chat/Helper": 40}.items():
        path = folder / f"{name}.kt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("x" * size)
    assert build.test_classes(tmp_path, []) == ["org.x.chat.LongTest", "org.x.chat.MiddleTest", "org.x.ShortTest"]
    assert build.test_classes(tmp_path, ["Short", "Mid"]) == ["org.x.chat.MiddleTest", "org.x.ShortTest"]
    assert build.test_classes(tmp_path, ["Helper"]) == []


def _program(path, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("written", "code", "passes", "said"),
    [
        ("PASSED\\ta\\t1\\nSKIPPED\\tb\\t0\\nDONE\\n", 0, True, "1 passed, 0 failed, 1 skipped"),
        ("PASSED\\ta\\t1\\nFAILED\\tb\\t0\\n\\tat line 3\\nDONE\\n", 1, False, "1 passed, 1 failed"),
        ("PASSED\\ta\\t1\\n", 134, False, "The JVM of group ended with 134"),  # died in the middle
        ("PASSED\\ta\\t1\\n", 0, False, "The JVM of group ended with 0"),  # a test ended it
        ("PASSED\\ta\\t1\\nDONE\\n", 1, False, "The JVM of group ended with 1"),  # or at the very end
        ("DONE\\n", 0, False, "0 passed"),  # nothing was tested, so nothing is shown
        (None, 1, False, "could not start"),
    ],
)
def test_run_tests_believes_only_a_whole_report(tmp_path, monkeypatch, capsys, written, code, passes, said):
    """A stand-in for java writes the report; RunTests is the word before its path."""
    report = f"open(sys.argv[sys.argv.index('RunTests') + 1], 'w').write('{written}')" if written else ""
    _program(tmp_path / "bin" / "java", f"print('could not start')\n{report}\nsys.exit({code})")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    monkeypatch.setattr(build, "step", lambda *_: tmp_path)
    group = build.Tests("group", ["org.x.ATest"], "some.jar", [])
    toolbox = build.Toolbox({"test": []}, {}, tmp_path, tmp_path, tmp_path)
    assert build.run_tests([group], toolbox) == passes
    assert said in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# The command line and its JDK
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["apk", "test"])
def test_without_a_jdk_one_sentence_says_what_to_install(tmp_path, command):
    done = subprocess.run(
        [sys.executable, build.__file__, command],
        env={**os.environ, "PATH": str(tmp_path), "JAVA_HOME": str(tmp_path / "nowhere")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "No JDK is installed: install a JDK 17 (on Debian: openjdk-17-jdk-headless).\n"


@pytest.mark.parametrize(
    ("says", "stream", "answer"),
    [
        ("javac 17.0.9", "stdout", None),
        ("javac 17", "stdout", None),  # the first of them
        ("javac 21.0.1", "stdout", r"The JDK is 21\.0\.1"),
        ("javac 170.1", "stdout", r"The JDK is 170\.1"),
        ("javac 1.8.0_392", "stderr", r"The JDK is 1\.8\.0_392"),  # where Java 8 says it
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", "stderr", "No JDK"),  # macOS
    ],
)
def test_only_a_jdk_17_will_do(tmp_path, monkeypatch, says, stream, answer):
    _program(tmp_path / "jdk" / "bin" / "javac", f"print({says!r}, file=sys.{stream})")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    if answer:
        with pytest.raises(BuildError, match=answer):
            build.jdk()
    else:
        assert build.jdk() == tmp_path / "jdk"


def test_all_tools_come_from_the_jdk_that_was_checked(tmp_path, monkeypatch):
    """JAVA_HOME is what the message tells to set, so another java in the PATH must not be used."""
    for folder, version in (("wanted", "17.0.1"), ("other", "21.0.1")):
        _program(tmp_path / folder / "bin" / "javac", f"print('javac {version}')")
        _program(tmp_path / folder / "bin" / "java", f"print('java {version}')")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "wanted"))
    monkeypatch.setenv("PATH", str(tmp_path / "other" / "bin"))
    monkeypatch.setattr(sys, "argv", ["build.py", "apk"])
    used = []
    monkeypatch.setattr(build, "make_apk", lambda *_, **__: used.append(build.run("java").strip()))
    build.main()
    assert used == ["java 17.0.1"]


def test_a_tool_that_fails_is_named_and_shows_what_it_printed(tmp_path, capsys):
    tool = _program(tmp_path / "tool", "print('the reason'); print('more', file=sys.stderr); sys.exit(3)")
    with pytest.raises(BuildError, match=r"^com\.example\.Tool failed, see above\.$"):
        build.run(tool, "-x", "com.example.Tool", Path("some/path.jar"))
    assert capsys.readouterr().out == "the reason\nmore\n"
