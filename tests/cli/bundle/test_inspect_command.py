"""`et-bundle inspect`."""

from __future__ import annotations

import pytest
from made_bundle import PTE, make_bundle, make_gate, make_manifest

from et_pipeline import bundle as bundles
from et_pipeline import manifest as bundle


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_inspect_shows_all_parts(run, request, kind, temporary):
    code, out, err = run("inspect", request.getfixturevalue(kind))
    assert code == 0
    assert err == ""
    for text in (
        "LlamaForCausalLM",
        "1.23 million",
        "apache-2.0",
        "builtin:tiny",
        "xnnpack",
        "Gate: passed",
        "0.999900",
    ):
        assert text in out
    for text in ("89.0 %", "9.50", "2.0 (1.0 to 3.0)", "German, French", "1.00 GB of RAM", "2026-01-02"):
        assert text in out
    assert "\x1b" not in out
    assert list(temporary.iterdir()) == []


def test_inspect_json_is_the_manifest(run, packed):
    _, out, _ = run("inspect", packed, "--json")
    assert bundle.Manifest.model_validate_json(out) == bundles.peek(packed)


def test_inspect_of_a_bundle_without_measurements(run, tmp_path):
    quality = bundle.Quality(gate=make_gate(passed=False))
    folder = make_bundle(tmp_path / "x", quality=quality, speed=[], tasks={}, samples=[])
    code, out, _ = run("inspect", folder)
    assert code == 0
    assert "Gate: FAILED" in out
    assert "Speed" not in out


def test_inspect_of_several_programs(run, tmp_path):
    folder = make_bundle(tmp_path / "x")
    (folder / "qnn-sm8650.pte").write_bytes(b"for the NPU")
    manifest = bundle.read(folder)
    for_chip = {
        "file": "qnn-sm8650.pte",
        "backend": "qnn",
        "soc": ["SM8650"],
        "hexagon": "V75",
        "qairt": "v2.49.40",
        "notice": "Under Qualcomm's licence.",
        "fallback_operators": {"aten::cat.out": 2},
        "fallback_reasons": {"aten::cat.out": "no kernel"},
        "executed": False,
        "quality": bundle.Quality(gate=make_gate(passed=False)),
    }
    programs = [manifest.main.model_copy(update=for_chip), manifest.main]
    files = bundle.describe_files(folder)
    bundle.write(manifest.model_copy(update={"programs": programs, "files": files}), folder)
    code, out, _ = run("inspect", folder)
    assert code == 0
    for text in (
        "SM8650 (V75)",
        "QAIRT v2.49.40 or newer. Under Qualcomm's licence.",
        "no kernel: 2 x aten::cat.out",
        "Gate of qnn-sm8650.pte: FAILED",
        f"Gate of {PTE}: passed",
    ):
        assert text in out
    code, out, err = run("verify", folder)
    assert code == 3
    assert "quality gate of qnn-sm8650.pte: below its threshold" in err
    assert "not run: this computer has no qnn that runs it" in out


def test_text_of_a_bundle_does_not_steer_the_terminal(run, tmp_path):
    files = make_bundle(tmp_path / "x") and bundle.describe_files(tmp_path / "x")
    manifest = make_manifest(files)
    what = manifest.what.model_copy(update={"licence": "\x1b[31m[bold]red[/bold]\x07"})
    bundle.write(manifest.model_copy(update={"what": what}), tmp_path / "x")
    _, out, _ = run("inspect", tmp_path / "x")
    assert "[31m[bold]red[/bold]" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_inspect_and_verify_of_an_embedding(run, embeddings):
    code, out, err = run("inspect", embeddings)
    assert (code, err) == (0, "")
    for words in ("2 numbers, mean of the tokens, of length 1", "texts of up to 64 tokens", "rank correlation", "0.97"):
        assert words in out
    code, out, _ = run("verify", embeddings)
    assert code == 0
    assert "1 equal within" in out
