"""Talking to a phone, with a small program in adb's place that behaves as adb does and keeps a phone's files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_bundle import PTE, make_bundle

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError
from et_pipeline.runtime import phone

FAKE_ADB = """#!{python}
import json, os, shutil, sys
from pathlib import Path
home = Path({home!r})
phone = json.loads((home / "phone.json").read_text())
with (home / "log").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
command, *rest = sys.argv[1:]
if command == "devices":
    print("List of devices attached")
    for serial, state in phone["devices"].items():
        print(f"{{serial}}\\t{{state}}")
    sys.exit(0)
if command == "install":
    print("Success" if phone["accepts"] else "Failure [INSTALL_FAILED_OLDER_SDK: Requires newer sdk version #26]")
elif command == "push":
    if not phone["room"]:
        sys.exit("adb: error: failed to copy: remote No space left on device")
    shutil.copy(rest[0], home / "files" / Path(rest[1]).name)
elif rest[:2] == ["pm", "path"]:
    print("package:/data/app/base.apk" if phone["app"] else "")
    sys.exit(0 if phone["app"] else 1)
elif rest[0] == "mv":
    (home / "files" / Path(rest[1]).name).rename(home / "files" / Path(rest[2]).name)
elif rest[0] == "rm":
    (home / "files" / Path(rest[2]).name).unlink(missing_ok=True)
elif rest[:2] == ["am", "instrument"]:
    print(phone["answer"])
"""


class FakePhone:
    """What the program in adb's place knows and does."""

    def __init__(self, home):
        self.home = home
        (home / "files").mkdir(parents=True)
        self.set()

    def set(self, **state):
        usual = {"devices": {"R5CT": "device"}, "accepts": True, "room": True, "app": True, "answer": ""}
        (self.home / "phone.json").write_text(json.dumps(usual | state))

    @property
    def files(self):
        return sorted(path.name for path in (self.home / "files").iterdir())

    @property
    def calls(self):
        return [json.loads(line) for line in (self.home / "log").read_text().splitlines()]


@pytest.fixture
def connected(tmp_path, monkeypatch):
    home = tmp_path / "phone"
    fake = FakePhone(home)
    tools = tmp_path / "platform-tools"
    tools.mkdir()
    (tools / "adb").write_text(FAKE_ADB.format(python=sys.executable, home=str(home)))
    (tools / "adb").chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return fake


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny bundle")


def make_report(folder, **changes):
    manifest = bundle.read(folder)
    speed = manifest.speed[0].model_copy(update={"where": "Pixel 8", "energy": 0.2}).model_dump()
    report = {"format": "et_pipeline.benchmark", "version": 1, "sha256": manifest.files[PTE].sha256, "speed": speed}
    return json.dumps({**report, "thermal_before": "none", **changes})


def test_push_gives_the_whole_bundle_and_opens_the_app(connected, folder, tmp_path):
    assert phone.push(folder) == "tiny"
    assert connected.files == ["tiny_bundle.zip"]
    with bundles.open_bundle(connected.home / "files" / "tiny_bundle.zip") as opened:
        assert opened.manifest == bundle.read(folder)
    assert connected.calls[-1][:3] == ["shell", "am", "start"]


def test_push_takes_a_zip_as_it_is(connected, folder, tmp_path):
    bundles.write_zip(folder, tmp_path / "a.zip")
    phone.push(tmp_path / "a.zip")
    assert (connected.home / "files" / "a.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()


def test_push_leaves_nothing_on_a_full_phone(connected, folder):
    connected.set(room=False)
    with pytest.raises(UserError, match="No space left on device"):
        phone.push(folder)
    assert connected.files == []


def test_push_refuses_a_broken_bundle_before_it_asks_the_phone_for_anything(connected, folder):
    (folder / PTE).write_bytes(b"altered")
    with pytest.raises(UserError, match=PTE):
        phone.push(folder)
    assert connected.files == []


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"devices": {}}, "No phone is connected"),
        ({"devices": {"A": "device", "B": "device"}}, "choose one with ANDROID_SERIAL, of A, B"),
        ({"devices": {"A": "unauthorized"}}, "allow USB debugging"),
        ({"devices": {"A": "offline"}}, "plug it in again"),
        ({"devices": {"A": "no permissions (user in plugdev group; are your udev rules wrong?)"}}, "udev rule"),
        ({"app": False}, "make install"),
    ],
)
def test_push_says_what_is_missing(connected, folder, state, sentence):
    connected.set(**state)
    with pytest.raises(UserError, match=sentence):
        phone.push(folder)


def test_android_serial_chooses(connected, folder, monkeypatch):
    connected.set(devices={"A": "offline", "B": "device"})
    monkeypatch.setenv("ANDROID_SERIAL", "B")
    phone.push(folder)
    monkeypatch.setenv("ANDROID_SERIAL", "C")
    with pytest.raises(UserError, match=r"ANDROID_SERIAL is 'C'.*there: A, B"):
        phone.push(folder)


def test_without_adb(monkeypatch, folder, tmp_path):
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="adb is not installed"):
        phone.push(folder)


@pytest.mark.skipif(not shutil.which("adb"), reason="no adb on this machine")
def test_the_real_adb_says_that_no_phone_is_there(folder, monkeypatch):
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.setenv("ADB_VENDOR_KEYS", os.devnull)
    try:
        with pytest.raises(UserError, match=r"No phone is connected|is not ready|does not work"):
            phone.push(folder)
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


def test_install(connected, tmp_path):
    apk = tmp_path / "app.apk"
    with pytest.raises(UserError, match="make apk"):
        phone.install(apk)
    apk.write_bytes(b"PK")
    phone.install(apk)
    assert connected.calls[-1] == ["install", "-r", str(apk)]
    connected.set(accepts=False)
    with pytest.raises(UserError, match="INSTALL_FAILED_OLDER_SDK"):
        phone.install(apk)


def test_install_as_make_runs_it(connected, tmp_path):
    connected.set(devices={})
    (tmp_path / "app.apk").write_bytes(b"PK")
    done = subprocess.run(
        [sys.executable, "-m", "et_pipeline.runtime.phone", str(tmp_path / "app.apk")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("No phone is connected")
    assert done.stderr.count("\n") == 1


def test_benchmark_goes_into_the_manifest_once(connected, folder):
    connected.set(answer=f"INSTRUMENTATION_RESULT: report={make_report(folder)}\nINSTRUMENTATION_CODE: -1")
    before = bundle.read(folder)
    for _ in range(2):
        report = phone.benchmark(folder, prompt_tokens=128, decode_tokens=64, rounds=3)
    after = bundle.read(folder)
    assert after == before.model_copy(update={"speed": [*before.speed, report.speed]})
    assert report.speed.where == "Pixel 8"
    instrument = next(call for call in connected.calls if call[1:3] == ["am", "instrument"])
    assert "sha256 " + before.files[PTE].sha256 in " ".join(instrument)
    assert instrument[-1] == phone.BENCHMARK


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            "INSTRUMENTATION_RESULT: error=Not on this phone.\nINSTRUMENTATION_CODE: 0",
            "Not on this phone",
        ),
        ("INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0", "Process crashed"),
        ("", "it said: nothing"),
        ("INSTRUMENTATION_RESULT: report={}", "no benchmark report of the app: format"),
    ],
)
def test_benchmark_says_what_the_phone_said(connected, folder, answer, sentence):
    connected.set(answer=answer)
    text = (folder / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=sentence):
        phone.benchmark(folder, 128, 64, 3)
    assert (folder / "manifest.json").read_bytes() == text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"version": 2}, "version 2"),
        ({"sha256": "0" * 64}, "another program"),
        ({"speed": {"where": "x"}}, "speed.threads"),
    ],
)
def test_a_wrong_report_is_refused(folder, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        phone.add_speed(folder, phone.read_report(make_report(folder, **changes).encode(), "report.json"))


def test_a_speed_goes_to_the_program_that_was_measured(folder):
    (folder / "qnn-sm8650.pte").write_bytes(b"for the NPU")
    before = bundle.read(folder)
    for_chip = {"file": "qnn-sm8650.pte", "soc": ["SM8650"], "quality": before.quality, "memory": before.memory}
    programs = [before.main.model_copy(update=for_chip), before.main]
    files = bundle.describe_files(folder)
    bundle.write(before.model_copy(update={"programs": programs, "files": files}), folder)
    report = make_report(folder, sha256=files["qnn-sm8650.pte"].sha256)
    for _ in range(2):  # the second takes the first one's place
        phone.add_speed(folder, phone.read_report(report.encode(), "report.json"))
    after = bundle.read(folder)
    assert [speed.where for speed in after.programs[0].speed] == ["Pixel 8"]
    assert (after.main.speed, after.speed) == ([], before.speed)


def test_no_json_is_refused():
    with pytest.raises(UserError, match=r"report\.json is no benchmark report"):
        phone.read_report(b"\xff\x00", "report.json")


def test_a_report_is_not_added_to_a_zip(folder, tmp_path):
    report = phone.read_report(make_report(folder).encode(), "report.json")
    bundles.write_zip(folder, tmp_path / "a.zip")
    with pytest.raises(UserError, match=r"a\.zip is no folder"):
        phone.add_speed(tmp_path / "a.zip", report)
    assert Path(tmp_path / "a.zip").is_file()
