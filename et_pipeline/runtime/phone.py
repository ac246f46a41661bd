"""The Android app on a phone at the USB port, over adb: install it, give it a bundle, let it measure.

adb's own `ANDROID_SERIAL` chooses among several phones. What runs on the phone is the app's own import, which checks
every hash, and its own benchmark screen's code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from et_pipeline import host
from et_pipeline import manifest as bundle
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.manifest import archive

APP = "org.etpipeline.demo"
INBOX = f"/sdcard/Android/data/{APP}/files/import"  # the app takes in what lies here when it comes to the front
BENCHMARK = f"{APP}/.benchmark.BenchmarkInstrumentation"
# How `adb devices` names a phone that cannot be used yet, and what to do about it.
NOT_READY = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again",
    "no permissions": "add a udev rule for it (Linux), or start adb's server as a user who may use USB",
}


class BenchmarkReport(BaseModel):
    """What the app's benchmark exports. The app adds more (temperature, battery, every round) for people to read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str
    version: int
    sha256: str
    """SHA-256 of the program that was measured."""
    speed: bundle.Speed


def read_report(data: bytes, name: str) -> BenchmarkReport:
    """Reads a benchmark report of the app; `name` says in messages where it came from.

    Raises:
        UserError: It is no report, or of another version.
    """
    try:
        report = BenchmarkReport.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{name} is no benchmark report of the app: {where}: {first['msg']}.") from error
    if (report.format, report.version) != ("et_pipeline.benchmark", 1):
        raise UserError(
            f"{name} is no benchmark report that this et_pipeline reads: its format is '{report.format}', version "
            f"{report.version}, and 'et_pipeline.benchmark', version 1 was expected."
        )
    return report


def add_speed(folder: Path, report: BenchmarkReport) -> None:
    """Puts a measured speed into a bundle's manifest, in place of an earlier one of the same phone and lengths.

    Args:
        folder: The bundle; a folder, because a zip is made from it again with `et-bundle zip`.
        report: What the app measured.

    Raises:
        UserError: It is no bundle folder, or the report is about another program.
    """
    manifest = _read_folder(folder)
    measured = [each for each in manifest.programs if manifest.files[each.file].sha256 == report.sha256]
    if not measured:
        raise UserError(
            f"The report is about another program (SHA-256 {report.sha256[:12]}…) than those in {folder}: give the "
            "bundle that was measured."
        )

    def added(speeds: list[bundle.Speed]) -> list[bundle.Speed]:
        return [*(speed for speed in speeds if _conditions(speed) != _conditions(report.speed)), report.speed]

    if measured[0] == manifest.main:
        changed: dict[str, object] = {"speed": added(manifest.speed)}
    else:  # one with figures of its own
        changed = {
            "programs": [
                each.model_copy(update={"speed": added(each.speed)}) if each == measured[0] else each
                for each in manifest.programs
            ]
        }
    bundle.write(manifest.model_copy(update=changed), folder)


def install(apk: Path) -> None:
    """Installs the app, over an older one if there is one.

    Raises:
        UserError: No file, no adb, no phone, or the phone refuses it.
    """
    if not apk.is_file():
        raise UserError(f"{apk} does not exist: make it with 'make apk'.")
    _adb("install", "-r", str(apk))


def push(path: Path) -> str:
    """Gives a bundle to the app on the phone and opens the app, which checks it and takes it in.

    Args:
        path: The bundle: a folder or a `.zip`. Its hashes are checked here first.

    Returns:
        The bundle's name.

    Raises:
        UserError: The bundle is broken, no adb, no phone, no app on it, or not enough room.
    """
    _require_app()
    path = host.expanded(path)
    with tempfile.TemporaryDirectory(prefix="et-push-") as temporary:
        manifest = _read_folder(path) if path.is_dir() else archive.unpack(path, Path(temporary))
        _require_chat(manifest)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", path.resolve().name.removesuffix(".zip"))
        packed = path
        if path.is_dir():
            packed = Path(temporary) / "bundle.zip"
            archive.write_zip(path, packed)
        # The app looks for *.zip: a copy that was cut off is never taken for a bundle.
        part, whole = f"{INBOX}/{name}.part", f"{INBOX}/{name}.zip"
        _adb("shell", "mkdir", "-p", INBOX)
        try:
            _adb("push", str(packed), part)
            _adb("shell", "mv", part, whole)
        except UserError:
            _run_adb("shell", "rm", "-f", part)
            raise
    _adb("shell", "am", "start", "-n", f"{APP}/.MainActivity")
    return manifest.what.name


def benchmark(folder: Path, prompt_tokens: int, decode_tokens: int, rounds: int) -> BenchmarkReport:
    """Lets the app on the phone measure a bundle that it has, and writes the result into the bundle's manifest here.

    Args:
        folder: The bundle.
        prompt_tokens: Length of the prompt, in tokens.
        decode_tokens: Length of the answer, in tokens.
        rounds: How often.

    Raises:
        UserError: No adb, no phone, no app on it, or the app says why it cannot measure.
    """
    manifest = _read_folder(folder)
    _require_app()
    options = {
        # Another recipe of the same model has the same name, and a manifest changes with every measurement.
        "sha256": manifest.files[manifest.main.file].sha256,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": decode_tokens,
        "rounds": rounds,
    }
    arguments = [part for key, value in options.items() for part in ("-e", key, str(value))]
    output = _adb("shell", "am", "instrument", "-w", *arguments, BENCHMARK)
    results = dict(re.findall(r"^INSTRUMENTATION_RESULT: (\w+)=(.*)$", output, re.MULTILINE))
    if "report" not in results:
        said = results.get("error") or results.get("shortMsg") or " ".join(output.split()) or "nothing"
        raise UserError(f"The phone did not measure {manifest.what.name}; it said: {said.rstrip('.')}.")
    report = read_report(results["report"].encode(), "The phone's answer")
    add_speed(folder, report)
    return report


def _read_folder(folder: Path) -> bundle.Manifest:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the bundle's folder, and pack it again afterwards.")
    manifest = bundle.read(folder)
    bundle.check_files(folder, manifest)
    _require_chat(manifest)
    return manifest


def _require_chat(manifest: bundle.Manifest) -> None:
    if manifest.chat is None:
        raise UserError(f"The app chats, and {manifest.what.name} embeds texts: take the bundle of a chat model.")


def _conditions(speed: bundle.Speed) -> tuple[str, int, int, int]:
    return speed.where, speed.threads, speed.prompt_tokens, speed.decode_tokens


def _find_adb() -> str:
    for home in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if home in os.environ:
            found = shutil.which("adb", path=Path(os.environ[home]) / "platform-tools")
            if found:
                return found
    found = shutil.which("adb")
    if not found:
        raise UserError(
            "adb is not installed: install Android's platform-tools (on Debian and Ubuntu: apt install adb), or set "
            "ANDROID_HOME."
        )
    return found


def _require_app() -> None:
    if "package:" not in _adb("shell", "pm", "path", APP, check=False):
        raise UserError(f"The app {APP} is not on the phone: install it with 'make install'.")


def require_phone() -> str:
    """Checks that there is one phone to talk to, and returns adb's path."""
    adb = _find_adb()
    listing = subprocess.run([adb, "devices"], capture_output=True, text=True, check=False)
    if listing.returncode:
        raise UserError(f"adb does not work: {_last_line(listing.stdout + listing.stderr)}.")
    phones = dict(re.findall(r"^(\S+)\t(.+?)\s*$", listing.stdout, re.MULTILINE))
    wanted = os.environ.get("ANDROID_SERIAL")
    if wanted:
        if wanted not in phones:
            there = ", ".join(phones) or "none"
            raise UserError(f"ANDROID_SERIAL is '{wanted}', and no such phone is connected (there: {there}).")
        phones = {wanted: phones[wanted]}
    if not phones:
        raise UserError(
            "No phone is connected: plug one in by USB and allow USB debugging on it (Settings, Developer options)."
        )
    if len(phones) > 1:
        raise UserError(f"Several phones are connected: choose one with ANDROID_SERIAL, of {', '.join(phones)}.")
    ((serial, state),) = phones.items()
    if state != "device":
        advice = next((text for word, text in NOT_READY.items() if state.startswith(word)), "check its screen")
        raise UserError(f"The phone {serial} is not ready ({state}): {advice}.")
    return adb


def _adb(*arguments: str, check: bool = True) -> str:
    """Runs an adb command on the phone and returns what it printed."""
    done = _run_adb(*arguments)
    output = done.stdout + done.stderr
    # 'adb install' of old versions ends with 0 and says Failure.
    if check and (done.returncode or re.search(r"^(Failure|Error:)", output, re.MULTILINE)):
        raise UserError(f"The phone refused 'adb {' '.join(arguments[:2])}': {_last_line(output)}.")
    return output


def _run_adb(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require_phone(), *arguments], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason given"


def main() -> None:
    """`python -m et_pipeline.runtime.phone APK`: what `make install` runs."""
    try:
        install(Path(sys.argv[1]))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USER)
    sys.stdout.write(f"{sys.argv[1]} is on the phone.\n")


if __name__ == "__main__":
    main()
