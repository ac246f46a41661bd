"""`runs.jsonl`, as a table reader of another project reads it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_bundle import PTE, make_embedding_manifest, make_manifest
from pyarrow import json as arrow

from et_pipeline import manifest
from et_pipeline.pipeline import history

FILES = {name: manifest.File(size=1000, sha256="0" * 64) for name in (PTE, "tokenizer.json")}


@pytest.fixture
def bundles(tmp_path):
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


def test_each_bundle_is_a_row_of_figures(bundles, tmp_path):
    history.note(bundles / "tiny", make_manifest(FILES), ["acquire", "quantize"], tmp_path / "cache")
    history.note(bundles / "vectors", make_embedding_manifest(FILES), [], tmp_path / "cache")
    first, second = arrow.read_json(bundles / "runs.jsonl").to_pylist()
    assert (first["bundle"], first["reused"], second["bundle"]) == ("tiny", "acquire quantize", "vectors")
    assert first["what.settings.model.name"] == "tiny"
    assert first["quality.agreement.original.token_by_token.kl"] == 1e-5
    assert first["quality.gate.passed"] is True
    assert first["speed.0.decode_tok_s.p50"] == 2.0
    assert first["stages.lower.peak_rss_bytes"] == 10**9
    assert second["embedding.speed.0.text_ms.p50"] == 2.0
    assert not {name for name in first if name.startswith(("files", "samples", "embedding.samples"))}


def test_runs_that_end_at_once_lose_no_line(bundles, tmp_path):
    made = make_manifest(FILES)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: history.note(bundles / f"b{n}", made, [], tmp_path / "cache"), range(40)))
    lines = (bundles / "runs.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["bundle"] for line in lines) == sorted(f"b{n}" for n in range(40))
    assert [path.name for path in bundles.iterdir()] == ["runs.jsonl"]


@pytest.mark.parametrize("before", [b'{"cut', b"\xff\xfe\n", b""])
def test_a_line_stands_alone_whatever_was_there(bundles, tmp_path, before):
    (bundles / "runs.jsonl").write_bytes(before)
    history.note(bundles / "tiny", make_manifest(FILES), [], tmp_path / "cache")
    content = (bundles / "runs.jsonl").read_bytes()
    assert content.startswith(before)
    assert json.loads(content.splitlines()[-1])["bundle"] == "tiny"
