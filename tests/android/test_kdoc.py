from __future__ import annotations

import json
import os

import kdoc
import pytest
import steps
from artifacts import ROOT, BuildError


@pytest.fixture
def dokka(tmp_path, monkeypatch, program, made_tools):
    """A stand-in for Dokka that says and does what a test wants, and its settings when it has run."""
    monkeypatch.setattr(kdoc, "BUILD", steps.BUILD)
    monkeypatch.setattr(kdoc, "prepare", lambda: made_tools)
    monkeypatch.setattr(kdoc, "fetch_all", lambda artifacts: {each: tmp_path / each.name for each in artifacts})

    def run(says="", code=0):
        program(tmp_path / "bin" / "java", f"print({says!r})\nsys.exit({code})")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        kdoc.make_kdoc()
        return json.loads((steps.BUILD / "kdoc.json").read_text(encoding="utf-8"))

    return run


def test_both_projects_have_pages_and_engine_must_be_documented(dokka):
    settings = dokka()
    roots = {each["displayName"]: each["sourceRoots"] for each in settings["sourceSets"]}
    assert roots == {name: [str(ROOT / name / "src" / "main" / "kotlin")] for name in ("core", "engine")}
    assert settings["failOnWarning"]
    assert [each["displayName"] for each in settings["sourceSets"] if each["reportUndocumented"]] == ["engine"]


def test_pages_are_made_once_until_something_changes(dokka, made_tools):
    dokka()
    dokka(code=1)  # is not run
    (made_tools.runtime / "classes.jar").write_bytes(b"another")
    with pytest.raises(BuildError, match="Dokka failed"):
        dokka(code=1)


def test_what_has_no_word_beside_it_is_shown_and_ends_the_build(dokka, capsys):
    with pytest.raises(BuildError, match="found 1 faults, see above: what is public needs its word"):
        dokka("Analysis\nWARN: Undocumented: org.etpipeline.core/Role", code=1)
    assert "WARN: Undocumented: org.etpipeline.core/Role\n" in capsys.readouterr().out


def test_a_dokka_that_fails_without_a_warning_shows_all_it_said(dokka, capsys):
    with pytest.raises(BuildError, match="Dokka failed"):
        dokka("out of memory", code=1)
    assert "out of memory" in capsys.readouterr().out
