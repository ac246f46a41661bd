"""`et-bundle` as a whole, and its shortest subcommands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from made_bundle import PTE

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle
from et_pipeline.cli import bundle as commands
from et_pipeline.errors import UserError


@pytest.mark.parametrize(
    "command", [[], ["inspect"], ["verify"], ["chat"], ["bench"], ["zip"], ["push"], ["add-speed"]]
)
def test_help(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["inspect", "FOLDER"]])
def test_answers_at_once_without_torch(folder, arguments):
    code = (
        "import sys; from et_pipeline.cli import bundle\n"
        "try:\n    bundle.main()\n"
        "finally:\n    assert not {'torch', 'transformers', 'tokenizers', 'executorch', 'hydra'} & set(sys.modules)"
    )
    arguments = [str(folder) if argument == "FOLDER" else argument for argument in arguments]
    started = time.process_time()
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.process_time() - started < 5
    assert result.stdout


def test_a_terminated_command_removes_its_temporary_folder(packed, temporary):
    code = (
        "import sys, time; from et_pipeline.bundle import loading; from et_pipeline.cli import bundle\n"
        "loading.first_runnable = lambda _: (print('open', flush=True), time.sleep(60))\n"
        "bundle.main()"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "bench", str(packed)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout.readline() == "open\n"
    assert list(temporary.iterdir())
    process.terminate()
    assert process.wait(20) == 143
    assert list(temporary.iterdir()) == []


def test_our_own_errors_keep_their_traceback(folder, monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(bundles, "peek", broken)
    monkeypatch.setattr(sys, "argv", ["et-bundle", "inspect", str(folder)])
    with pytest.raises(ZeroDivisionError):
        commands.main()


def test_a_message_of_several_lines_becomes_one(run, folder, monkeypatch):
    def broken(_):
        raise UserError("two\nlines\x1b[31m.")

    monkeypatch.setattr(bundles, "peek", broken)
    assert run("inspect", folder) == (2, "", "two lines[31m.\n")


def test_zip(run, folder, tmp_path):
    code, out, _ = run("zip", folder, tmp_path / "out.zip")
    assert code == 0
    assert "out.zip" in out
    assert bundles.peek(tmp_path / "out.zip") == bundles.peek(folder)


def test_add_speed_writes_what_a_phone_measured(run, folder, tmp_path):
    manifest = bundle.read(folder)
    speed = manifest.speed[0].model_copy(update={"where": "Pixel 8"}).model_dump()
    report = {"format": "et_pipeline.benchmark", "version": 1, "sha256": manifest.files[PTE].sha256, "speed": speed}
    (tmp_path / "report.json").write_text(json.dumps(report))
    code, out, err = run("add-speed", folder, tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert "Pixel 8" in out
    assert [entry.where for entry in bundle.read(folder).speed] == ["a computer", "Pixel 8"]
    assert run("add-speed", folder, tmp_path / "none.json")[0] == 2


def test_eval_says_how_to_get_the_harness(run, folder, monkeypatch):
    class Absent:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "lm_eval":
                raise ModuleNotFoundError(name=name)

    for name in [name for name in sys.modules if name.startswith("lm_eval") or name == "et_pipeline.bundle.harness"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    code, out, err = run("eval", folder, "--tasks", "lambada_openai")
    assert (code, out) == (2, "")
    assert err == "et-bundle eval needs lm-evaluation-harness: pip install 'et-pipeline[eval]'.\n"


@pytest.mark.parametrize("command", [["push"], ["bench", "--phone"]])
def test_phone_commands_say_that_there_is_none(run, folder, command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    code, out, err = run(*command, folder)
    assert (code, out) == (2, "")
    assert err.startswith("adb is not installed")


def test_zip_where_nothing_can_be_written(run, folder, tmp_path):
    code, _, err = run("zip", folder, tmp_path / ("x" * 300))
    assert code == 2
    assert err.endswith("cannot be written (File name too long).\n")
