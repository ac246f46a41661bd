"""Ten questions side by side."""

import json

import pytest

from et_pipeline import tiny_assistant
from et_pipeline.bench import answers

FOUND = {
    "date": "2026-01-02",
    "machine": "a machine",
    "bundle": "tiny",
    "recipe": "8da4w-g32",
    "bytes": 1_600_000,
    "answers": [
        {"question": "Yes?", "program": "one\n| two", "transformers": "one\n| two"},
        {"question": "No?", "program": "<b>", "transformers": "b"},
    ],
}


def test_answers_stand_side_by_side():
    lines = answers.table(FOUND).splitlines()
    assert lines[0] == "| question | program, `8da4w-g32`, 1.6 MB | transformers, fp32 |"
    assert lines[2:4] == ["| Yes? | one \\| two | one \\| two |", "| No? | &lt;b> | b |"]
    assert lines[5].startswith("1 of 2 are the same to the letter")


@pytest.mark.slow
def test_an_unquantized_program_says_what_transformers_does(command, tmp_path, capsys):
    code, out, err = command(
        "recipe=fp32", "task=chat", "verify.sequences=4", f"paths.bundles={tmp_path}", "format=json"
    )
    assert code == 0, err
    kept = tmp_path / "answers.json"
    answers.main([json.loads(out)["bundle"], str(tiny_assistant.CHECKPOINT), "--json", str(kept)])
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert [each["program"] for each in found["answers"]] == [each["transformers"] for each in found["answers"]]
    assert answers.table(found) in capsys.readouterr().out


def test_what_is_no_bundle_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        answers.main([str(tmp_path), str(tiny_assistant.CHECKPOINT)])
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
