import json
import os
import subprocess
import sys

import pytest

from et_pipeline import doctor
from et_pipeline.cli import SUBCOMMANDS
from et_pipeline.doctor import probes, trial
from et_pipeline.doctor.trial import Tried, try_all

PROBES = """
import os, time
from et_pipeline.errors import UserError
def good(): print("noise"); return "all  is\\nwell"
def mistake(): raise UserError("install it")
def missing(): import not_a_module
def fault(): 1 / 0
def crash(): os.write(2, b"native words\\n"); os.abort()
def hangs(): time.sleep(600)
"""


@pytest.fixture
def tried(tmp_path, monkeypatch):
    (tmp_path / "some_probes.py").write_text(PROBES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return lambda *names: try_all("some_probes", names)


def test_a_probe_that_ends_its_process_is_a_finding_and_the_others_go_on(tried):
    found = tried("good", "crash", "mistake", "missing", "fault")
    assert found["good"] == Tried(True, "all is well")
    assert not found["crash"].ok
    assert found["crash"].seen.endswith(": native words")
    assert found["mistake"] == Tried(False, "install it")
    assert found["missing"] == Tried(False, "not_a_module is not installed")
    assert found["fault"] == Tried(False, "ZeroDivisionError: division by zero")


def test_a_probe_that_hangs_is_a_finding(tried, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 3)
    assert tried("good", "hangs") == {"good": Tried(True, "all is well"), "hangs": Tried(False, "no answer in 3 s")}


def test_every_ability_has_a_probe():
    for name in (*doctor.FACTS, *doctor.ABILITIES):
        assert callable(getattr(probes, name)), name
    assert set(doctor.SECOND) < set(doctor.ABILITIES)


def test_packages_are_those_of_the_metadata(monkeypatch):
    lines = ["torch>=2.0", "nowhere-to-be-found>=1", "pydantic>=99", "psutil>=1; sys_platform == 'none'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [*lines, 'peft>=0.1; extra == "adapt"'])
    found = {each.name: each for each in doctor.packages()}
    assert list(found) == ["nowhere-to-be-found", "pydantic", "torch"]
    assert [each.ok for each in found.values()] == [False, False, True]
    assert found["torch"].tested is not None  # this is a checkout
    report = doctor.Report(computer={}, packages=list(found.values()), abilities=[])
    assert report.broken == ["nowhere-to-be-found is missing", f"pydantic {found['pydantic'].found}"]


def test_a_cache_is_written_and_locked(tmp_path):
    made = doctor.cache_works(tmp_path / "not" / "yet")
    assert made.ok
    assert "written and locked" in made.seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.linux("where nobody writes into /proc")
def test_a_cache_that_cannot_be_written():
    made = doctor.cache_works(doctor.Path("/proc/cache"))
    assert (made.ok, made.needed) == (False, True)
    assert made.seen.startswith("/proc: ")
    assert "paths.cache=FOLDER" in made.get


def test_a_cache_that_is_a_file_is_told_how_to_be_changed(command, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    made = doctor.cache_works(tmp_path / "file" / "cache")
    assert not made.ok
    monkeypatch.setattr("et_pipeline.doctor.examine", lambda cache: report(abilities=[made]))
    code, _, err = command("doctor")
    assert code == 2
    assert err.endswith("broken: the cache; another folder: paths.cache=FOLDER, or ET_PIPELINE_CACHE\n")


def test_a_disk_that_keeps_no_locks(tmp_path, monkeypatch):
    class NoLock(doctor.FileLock):
        def _acquire(self):
            self._context.lock_file_fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT)

    monkeypatch.setattr(doctor, "FileLock", NoLock)
    made = doctor.cache_works(tmp_path)
    assert not made.ok
    assert "keeps no locks" in made.seen


def report(**changes):
    package = doctor.Package(name="torch", found="2.13.0", wanted=">=2.13", tested=None, ok=True)
    ability = doctor.Ability(name="et-bundle eval", ok=False, seen="lm_eval is not installed", get="pip install it")
    made = doctor.Report(computer={"memory": "8 GB"}, packages=[package], abilities=[ability])
    return made.model_copy(update=changes)


def test_what_is_missing_but_not_needed_is_no_fault(command, monkeypatch):
    monkeypatch.setattr("et_pipeline.doctor.examine", lambda cache: report())
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    for words in ("8 GB", "torch", ">=2.13", "no  et-bundle eval  lm_eval is not installed  pip install it"):
        assert words in out


def test_a_broken_base_is_a_sentence_and_exit_code_2(command, monkeypatch):
    broken = doctor.Ability(name="run a .pte", ok=False, seen="its process ended", get="pip install", needed=True)
    monkeypatch.setattr("et_pipeline.doctor.examine", lambda cache: report(abilities=[broken]))
    code, out, err = command("doctor", "--json")
    assert code == 2
    assert err.startswith("et-pipeline: the base install is broken: run a .pte; ")
    assert json.loads(out)["broken"] == ["run a .pte"]


def test_the_cache_is_the_one_of_the_settings(command, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("et_pipeline.doctor.examine", lambda cache: asked.append(cache) or report())
    command("doctor")
    assert asked == [(tmp_path / "cache").resolve()]


def test_no_token_is_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = probes.hub()
    assert ", a token, HF_HUB_OFFLINE=1" in said
    assert "secret" not in said


def test_the_computer_is_told_of_with_what_is_in_the_cache(tmp_path):
    (tmp_path / "x").write_bytes(bytes(3_000_000))
    tried = {name: Tried(True, name.upper()) for name in doctor.FACTS}
    found = doctor.computer(tmp_path, tried)
    assert found["memory"] == "MEMORY"
    assert "3.0 MB in 1 files" in found["cache"]


def test_a_subcommand_is_found_before_hydra_looks(command):
    assert "doctor" in SUBCOMMANDS
    code, out, _ = command("doctor", "--help")
    assert code == 0
    assert "usage: et-pipeline doctor" in out


@pytest.mark.slow
def test_this_computer(tmp_path):
    """The whole of it, with the libraries that the tests have."""
    environment = {**os.environ, "ET_PIPELINE_CACHE": str(tmp_path)}
    program = "from et_pipeline.cli import main; main()"
    words = [sys.executable, "-c", program, "doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    abilities = {each["name"]: each for each in found["abilities"]}
    assert "was exported, lowered and run" in abilities["quantize, export, run a .pte (XNNPACK)"]["seen"]
    assert abilities["adapt=..., LoRA adapters"]["ok"]
    assert all(each["get"] or each["name"] == "a phone over adb" for each in abilities.values() if not each["ok"])
