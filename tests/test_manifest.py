"""The manifest: schema, writing, reading, checking files."""

from __future__ import annotations

import json
import os

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundle import PTE, make_bundle, make_embedding_manifest, make_gate, make_manifest, write_files
from pydantic import ValidationError

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture
def manifest(folder):
    return bundle.read(folder)


def test_the_schema_in_the_repository_is_the_one_of_the_code():
    assert bundle.SCHEMA_PATH.read_text(encoding="utf-8") == bundle.json_schema(), "run python -m et_pipeline.manifest"


def test_every_field_has_a_description():
    schema = json.loads(bundle.json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, part in [("Manifest", schema), *schema["$defs"].items()]:
        assert part["description"], name
        for field, content in part["properties"].items():
            assert content.get("description") or "$ref" in content or "anyOf" in content, f"{name}.{field}"


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


def change(folder, path, value):
    """Sets a field (dots between keys) of a written manifest; `...` removes it."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    *parents, last = path.split("|")
    part = content
    for key in parents:
        part = part[int(key) if isinstance(part, list) else key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "gguf", "'format' must be 'et_pipeline.bundle', found 'gguf'"),
        ("version", 7, "has version 7, and this et_pipeline reads versions 1 to 6"),
        ("version", True, "has version True"),
        ("version", ..., "has version None"),
        ("what", ..., "field 'what' is wrong: Field required"),
        ("what|parameters", "many", "field 'what.parameters' is wrong"),
        ("what|parameters", 1.5, "field 'what.parameters' is wrong"),
        ("what|created", "yesterday", "field 'what.created' is wrong"),
        ("colour", "blue", "field 'colour' is wrong: Extra inputs"),
        ("programs", [], "field 'programs' is wrong"),
        ("programs|0|max_context", 0, "field 'programs.0.max_context' is wrong"),
        ("programs|0|executed", "yes", "field 'programs.0.executed' is wrong"),
        ("programs|0|file", "other.pte", "'other.pte' is used but not listed in 'files'"),
        ("programs|0|file", "../x", "not a plain relative path"),
        ("programs|0|weights", ["model.ptd"], "'model.ptd' is used but not listed in 'files'"),
        ("programs|0|weights", ["../x"], "field 'programs.0.weights.0' is wrong"),
        ("programs|0|weights", None, "field 'programs.0.weights' is wrong"),
        ("what|task", "painting", "field 'what.task' is wrong"),
        ("what|task", "embedding", "what.task is 'embedding', so there must be 'embedding' and no 'chat'"),
        ("chat", None, "what.task is 'text-generation', so there must be 'chat' and no 'embedding'"),
        ("tokenizer|kind", "spm", "field 'tokenizer.kind' is wrong"),
        ("tokenizer|eos_ids", ["</s>"], "field 'tokenizer.eos_ids.0' is wrong"),
        ("chat|stop_strings", [""], "field 'chat.stop_strings.0' is wrong"),
        ("chat|segments|user_to_assistant", None, "field 'chat.segments.user_to_assistant' is wrong"),
        ("samples|0|task", "sing", "a sample is of task 'sing'"),
        ("quality|gate|passed", False, "the verdict 'passed' contradicts the checks"),
        ("quality|agreement|quantized|chunked|top1", 1.5, "field 'quality.agreement.quantized.chunked.top1' is wrong"),
        ("memory|peak_bytes", -1, "field 'memory.peak_bytes' is wrong"),
        (f"files|{PTE}|sha256", "abc", "is wrong"),
        ("files|../x", {"size": 1, "sha256": "0" * 64}, "not a plain relative path"),
        ("files|/etc/x", {"size": 1, "sha256": "0" * 64}, "not a plain relative path"),
        ("files|manifest.json", {"size": 1, "sha256": "0" * 64}, "must not list manifest.json"),
        (f"files|{PTE}/x", {"size": 1, "sha256": "0" * 64}, "cannot be a file and the folder"),
        ("files|manifest.json/x", {"size": 1, "sha256": "0" * 64}, "cannot be a file and the folder"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(folder, path, value, message):
    change(folder, path, value)
    with pytest.raises(UserError) as caught:
        bundle.read(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_version_1_is_read_and_written_as_the_last_one(folder, manifest):
    change(folder, "version", 1)
    change(folder, "what|task", ...)
    change(folder, "programs|0|weights", ...)
    change(folder, "embedding", ...)
    change(folder, "quality|embedding", ...)
    change(folder, "quality|text", ...)
    jsonschema.validate(json.loads((folder / "manifest.json").read_text()), json.loads(bundle.json_schema()))
    old = bundle.read(folder)
    assert old.version == 1
    bundle.write(old, folder)
    quality = manifest.quality.model_copy(update={"text": None})
    assert bundle.read(folder) == manifest.model_copy(update={"quality": quality})
    assert manifest.version == 6


def test_a_bundle_that_embeds_texts(tmp_path):
    write_files(tmp_path / "x")
    made = make_embedding_manifest(bundle.describe_files(tmp_path / "x"))
    bundle.write(made, tmp_path / "x")
    jsonschema.validate(json.loads((tmp_path / "x" / "manifest.json").read_text()), json.loads(bundle.json_schema()))
    assert bundle.read(tmp_path / "x") == made


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("embedding", None, "there must be 'embedding' and no 'chat'"),
        ("what|task", "text-generation", "there must be 'chat' and no 'embedding'"),
        ("tasks", {"t": {"title": "T", "template": "{text}", "max_new_tokens": 1}}, "an embedding has no 'tasks'"),
        ("embedding|pooling", "max", "field 'embedding.pooling' is wrong"),
        ("embedding|dimension", 0, "field 'embedding.dimension' is wrong"),
        ("quality|embedding|original|texts", 1, "field 'quality.embedding.original.texts' is wrong"),
    ],
)
def test_a_wrong_part_of_an_embedding_is_named(tmp_path, path, value, message):
    write_files(tmp_path / "x")
    bundle.write(make_embedding_manifest(bundle.describe_files(tmp_path / "x")), tmp_path / "x")
    change(tmp_path / "x", path, value)
    with pytest.raises(UserError, match=message):
        bundle.read(tmp_path / "x")


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


def test_good_files_pass(folder, manifest):
    bundle.check_files(folder, manifest)
    assert manifest.files == bundle.describe_files(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / PTE).unlink(), "'model.pte' is missing"),
        (lambda folder: os.truncate(folder / PTE, 10), "'model.pte' is truncated: it has 10 bytes"),
        (lambda folder: (folder / PTE).write_bytes(b"x" * 9001), "'model.pte' is too long"),
        (lambda folder: (folder / PTE).write_bytes(b"x" * 9000), "'model.pte' was altered"),
        (lambda folder: (folder / "sub" / "more").write_text("x"), "'sub/more' is not listed"),
        (lambda folder: (folder / "link").symlink_to(folder / PTE), "'link' is a link or a device"),
        (lambda folder: os.mkfifo(folder / "pipe"), "'pipe' is a link or a device"),
    ],
)
def test_a_wrong_file_is_named(folder, manifest, spoil, message):
    spoil(folder)
    with pytest.raises(UserError) as caught:
        bundle.check_files(folder, manifest)
    assert message in str(caught.value)


def test_hashes_are_the_known_ones(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert bundle.describe_file(tmp_path / "x") == bundle.File(
        size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_not_executed_bundle_has_no_agreement(tmp_path):
    write_files(tmp_path / "x")
    quality = bundle.Quality(gate=make_gate(passed=True))
    manifest = make_manifest(bundle.describe_files(tmp_path / "x"), quality=quality)
    assert manifest.quality.agreement is None


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
