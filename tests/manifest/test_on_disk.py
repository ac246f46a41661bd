"""Writing and reading `manifest.json`."""

from __future__ import annotations

import json
import os

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundle import PTE, make_manifest

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError


def test_what_is_written_follows_the_schema_and_reads_the_same(folder, manifest):
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads(bundle.json_schema()))
    assert bundle.Manifest.model_validate_json(json.dumps(content)) == manifest
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", PTE, "sub", "tokenizer.json"]


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    number=st.floats(0, 1e300),
    setting=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
        max_leaves=5,
    ),
)
def test_round_trip(tmp_path_factory, text, number, setting):
    folder = tmp_path_factory.mktemp("round")
    base = make_manifest(
        {PTE: bundle.File(size=1, sha256="a" * 64), "tokenizer.json": bundle.File(size=1, sha256="b" * 64)}
    )
    manifest = base.model_copy(
        update={
            "what": base.what.model_copy(update={"name": text, "settings": {"x": setting}}),
            "samples": [bundle.Sample(task="translate", prompt=text, answer=text)],
            "stages": {"lower": bundle.StageCost(wall_s=number, cpu_s=number, peak_rss_bytes=0)},
        }
    )
    bundle.write(manifest, folder)
    assert bundle.read(folder) == manifest


def test_writing_replaces_the_old_manifest_or_leaves_it(folder, manifest, monkeypatch):
    before = (folder / "manifest.json").read_bytes()

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        bundle.write(manifest.model_copy(update={"samples": []}), folder)
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3", '"x"', "\xff", '{"format": "et_pipeline.bundle"'])
def test_broken_json(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"no valid JSON|no bundle manifest"):
        bundle.read(folder)


@settings(deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["format", "version", "what"]), x),
    ).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_give_a_manifest_or_a_sentence(data):
    with pytest.raises(UserError):
        bundle.parse(data, "manifest.json")


def test_a_huge_manifest_is_not_loaded(folder):
    with (folder / "manifest.json").open("r+b") as stream:
        stream.truncate(bundle.MAX_MANIFEST_BYTES + 1)
    with pytest.raises(UserError, match="no manifest is larger"):
        bundle.read(folder)


def test_missing_manifest(tmp_path):
    with pytest.raises(UserError, match=r"no bundle: it has no manifest\.json"):
        bundle.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        bundle.read(tmp_path / "manifest.json")
