"""What a manifest must say: its schema, fields, versions."""

from __future__ import annotations

import json

import jsonschema
import pytest
from made_bundle import PTE, make_embedding_manifest, make_gate, make_manifest, write_files

from et_pipeline import manifest as bundle
from et_pipeline.errors import UserError


def test_the_schema_in_the_repository_is_the_one_of_the_code():
    assert bundle.SCHEMA_PATH.read_text(encoding="utf-8") == bundle.json_schema(), "run python -m et_pipeline.manifest"


def test_every_field_has_a_description():
    schema = json.loads(bundle.json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, part in [("Manifest", schema), *schema["$defs"].items()]:
        assert part["description"], name
        for field, content in part["properties"].items():
            assert content.get("description") or "$ref" in content or "anyOf" in content, f"{name}.{field}"


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
        ("version", 12, "has version 12, and this et_pipeline reads versions 1 to 11"),
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
    assert manifest.version == 11


def test_an_embedding_of_version_8_has_no_prompts(tmp_path):
    write_files(tmp_path / "x")
    bundle.write(make_embedding_manifest(bundle.describe_files(tmp_path / "x")), tmp_path / "x")
    change(tmp_path / "x", "version", 8)
    for key in ("prompts", "default_prompt", "dimensions"):
        change(tmp_path / "x", f"embedding|{key}", ...)
    embedding = bundle.read(tmp_path / "x").embedding
    assert (embedding.prompts, embedding.default_prompt, embedding.dimensions) == ({}, None, [])


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
        ("embedding|default_prompt", "ask", "'default_prompt' is 'ask', which is not in 'prompts'"),
        ("embedding|dimensions", [2], "'dimensions' must lie between 0 and 2, the whole length"),
        ("quality|embedding|original|texts", 1, "field 'quality.embedding.original.texts' is wrong"),
    ],
)
def test_a_wrong_part_of_an_embedding_is_named(tmp_path, path, value, message):
    write_files(tmp_path / "x")
    bundle.write(make_embedding_manifest(bundle.describe_files(tmp_path / "x")), tmp_path / "x")
    change(tmp_path / "x", path, value)
    with pytest.raises(UserError, match=message):
        bundle.read(tmp_path / "x")


def test_a_not_executed_bundle_has_no_agreement(tmp_path):
    write_files(tmp_path / "x")
    quality = bundle.Quality(gate=make_gate(passed=True))
    manifest = make_manifest(bundle.describe_files(tmp_path / "x"), quality=quality)
    assert manifest.quality.agreement is None


def with_adapter(files, rank=4, adapter_rank=8, weights=("model.ptd",), **changes):
    program = make_manifest(files).programs[0]
    near = bundle.Agreement(positions=9, cosine=0.99, min_cosine=0.9, max_abs_diff=0.1, kl=0.01, top1=0.99)
    adapter = bundle.Adapter(
        name="formal",
        file="adapters/formal.ptd",
        program=PTE,
        rank=rank,
        base="org/model",
        source={"adapter_model.safetensors": "0" * 64},
        quality=bundle.AdapterQuality(
            agreement=near,
            greedy=bundle.GreedyAgreement(prompts=1, equal=1, tokens=9, agreement=1.0),
            gate=make_gate(passed=True),
        ),
    ).model_copy(update=changes)
    takes = program.model_copy(update={"adapter_rank": adapter_rank, "weights": list(weights)})
    return {"programs": [takes], "adapters": [adapter.model_dump()]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 9}, "no program takes the adapter 'formal' of rank 9"),
        ({"adapter_rank": 0}, "no program takes the adapter 'formal' of rank 4"),
        ({"program": "other.pte"}, "no program takes the adapter 'formal'"),
        ({"weights": ()}, "has one file of 'weights'"),
        ({"file": "adapters/other.ptd"}, "'adapters/other.ptd' is used but not listed"),
    ],
)
def test_an_adapter_belongs_to_a_program_that_takes_it(folder, changes, message):
    for name in ("model.ptd", "adapters/formal.ptd"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"numbers")
    files = bundle.describe_files(folder)
    good = make_manifest(files, **with_adapter(files))
    assert good.adapters[0].name == "formal"
    bundle.write(good, folder)
    assert bundle.read(folder) == good
    with pytest.raises(ValueError, match=message):
        make_manifest(files, **with_adapter(files, **changes))


def test_two_adapters_have_two_names(folder):
    files = bundle.describe_files(folder) | {"model.ptd": bundle.File(size=1, sha256="0" * 64)}
    files |= {"adapters/formal.ptd": bundle.File(size=1, sha256="0" * 64)}
    made = with_adapter(files)
    with pytest.raises(ValueError, match="two adapters are called 'formal'"):
        make_manifest(files, **made | {"adapters": made["adapters"] * 2})
