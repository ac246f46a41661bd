"""`et-bundle verify`, and what keeps a program from being run."""

from __future__ import annotations

import json

import pytest
from made_bundle import PTE, EchoProgram, make_bundle, make_gate, make_manifest

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError
from et_pipeline.runtime import program


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_verify_passes(run, request, kind, temporary):
    code, out, err = run("verify", request.getfixturevalue(kind))
    assert code == 0, err
    assert "FAILED" not in out
    assert "1 equal" in out
    assert list(temporary.iterdir()) == []


def test_verify_json(run, folder):
    code, out, _ = run("verify", folder, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["passed"] is True
    assert all(check["passed"] and check["detail"] for check in result["checks"])


def test_verify_fails_on_another_answer(run, tmp_path):
    samples = [bundle.Sample(task="translate", prompt="To German: hi", answer="Hallo")]
    code, out, err = run("verify", make_bundle(tmp_path / "x", samples=samples), "--json")
    assert code == 3
    assert json.loads(out)["passed"] is False
    assert "instead of 'Hallo'" in err
    assert err.count("\n") == 1


def test_verify_fails_with_its_gate(run, tmp_path):
    quality = bundle.Quality(gate=make_gate(passed=False))
    code, _, err = run("verify", make_bundle(tmp_path / "x", quality=quality))
    assert code == 3
    assert "top1 against original 0.5 (threshold 0.9)" in err


def test_verify_says_what_it_could_not_run(run, tmp_path):
    program = make_manifest(
        {PTE: bundle.File(size=1, sha256="0" * 64), "tokenizer.json": bundle.File(size=1, sha256="0" * 64)}
    ).programs[0]
    folder = make_bundle(tmp_path / "x", programs=[program.model_copy(update={"backend": "qnn", "executed": False})])
    code, out, _ = run("verify", folder)
    assert code == 0
    assert "not run: this computer has no qnn that runs it" in out
    code, _, err = run("chat", folder, stdin="hi\n")
    assert code == 2
    assert "for qnn only (this computer has no qnn that runs it)" in err
    code, out, _ = run("inspect", folder)
    assert code == 0
    assert "reason unknown: aten::embedding" in out


@pytest.mark.parametrize(("there", "line"), [(True, "sample answers of"), (False, "not run: no compiler here")])
def test_what_the_simulator_executed_is_run_where_there_is_one(run, tmp_path, monkeypatch, there, line):
    def load_sdk():
        if not there:
            raise UserError("no compiler here")

    monkeypatch.setattr("et_pipeline.backends.qnn.load_sdk", load_sdk)
    listed = {name: bundle.File(size=1, sha256="0" * 64) for name in (PTE, "tokenizer.json")}
    made = make_manifest(listed).programs[0].model_copy(update={"backend": "qnn"})
    folder = make_bundle(tmp_path / "x", programs=[made])
    code, out, _ = run("verify", folder)
    assert code == 0
    assert line in out
    code, _, err = run("bench", folder)
    assert code == 2
    assert ("says nothing: measure it on a phone" if there else "no compiler here") in err


@pytest.mark.parametrize("command", ["verify", "chat"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("get_max_context_len", 1024, "its get_max_context_len is 1024, and the manifest says 512"),
        ("get_eos_ids", [2], "its get_eos_ids is [2], and the manifest says [256]"),
        ("get_vocab_size", 257, "it knows 257 tokens, and the tokenizer has an id 257"),
    ],
)
def test_a_program_of_another_bundle(run, folder, monkeypatch, command, key, value, message):
    class Other(EchoProgram):
        def __init__(self, path, threads=None, weights=None, packed=None):
            super().__init__(path)
            self.metadata[key] = value

    monkeypatch.setattr(program, "Program", Other)
    code, _, err = run(command, folder, stdin="hi\n")
    assert code == 2
    assert message in err


def test_verify_fails_where_similarities_differ(run, embeddings):
    made = bundle.read(embeddings)
    changed = bundle.Similarity(first="a", second="bb", cosine=0.9)
    embedding = made.embedding.model_copy(update={"samples": [changed]})
    bundle.write(made.model_copy(update={"embedding": embedding}), embeddings)
    code, _, err = run("verify", embeddings)
    assert code == 3
    assert "differ by up to 0.049, allowed are 0.02" in err
