"""Single parts of a manifest, and the values in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from et_pipeline import manifest as bundle


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValidationError):
        bundle.Check(name="x", value=float("nan"), threshold=0.0, passed=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("builtin:tiny", "builtin:tiny"),
        ("org/model", "org/model"),
        ("/srv/models/llama", "llama"),
        ("/srv/models/llama/", "llama"),
        ("~/llama", "llama"),
        ("../llama", "llama"),
        ("C:\\models\\llama", "llama"),
    ],
)
def test_no_path_of_this_machine_goes_into_a_bundle(source, expected):
    assert bundle.portable_source(source) == expected


def test_a_folder_of_the_form_of_a_hub_id_is_told_by_being_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    assert bundle.portable_source("models/llama") == "llama"


@given(text=st.text())
def test_what_the_user_types_is_not_taken_for_a_template(text):
    task = bundle.Task(
        title="T", template="{a} {text} {b} {unknown}", max_new_tokens=1, choices={"a": ["{text}", "y"], "b": ["z"]}
    )
    assert task.fill(text) == "{text} " + text + " z {unknown}"
    assert task.fill(text, {"a": "y"}) == "y " + text + " z {unknown}"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/x", "a//b", "a/", "a\\b", "C:x", "C:/x", "a\0b", "a\nb", "\x1b[1m", "x" * 300],
)
def test_unsafe_names(name):
    with pytest.raises(ValueError, match="path"):
        bundle.check_name(name)


@given(st.text())
def test_a_name_that_passes_stays_inside(tmp_path_factory, name):
    try:
        bundle.check_name(name)
    except ValueError:
        return
    folder = tmp_path_factory.getbasetemp()
    assert (folder / name).resolve().is_relative_to(folder.resolve())
    assert (folder / name).resolve() != folder.resolve()
