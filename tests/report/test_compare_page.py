"""make compare: the Pareto front, the pictures and the page."""

import json
import re
from html.parser import HTMLParser

import pytest
from made_bundle import PTE, make_gate, make_manifest

from et_pipeline.bench import docs, quality_tables
from et_pipeline.manifest import Agreement, Comparison, File, Quality, Sample, WaysOfFeeding
from et_pipeline.report import comparison
from et_pipeline.report.compare_page import page, write
from et_pipeline.report.compare_pictures import pictures
from et_pipeline.report.comparison import Outcome, best, figures

SENTENCE = "up_proj.weight has rows of 192 weights, which recipe.group_size=128 does not divide"


def outcome(name, size, kl, passed=True, answer="guten Tag", **recipe):
    found = Agreement(positions=9, cosine=0.99, min_cosine=0.9, max_abs_diff=0.1, kl=kl, top1=0.9)
    ways = WaysOfFeeding(one_piece=found, chunked=found, token_by_token=found)
    files = {PTE: File(size=size, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)}
    manifest = make_manifest(
        files,
        quality=Quality(agreement=Comparison(quantized=ways, original=ways), gate=make_gate(passed)),
        samples=[Sample(task="translate", prompt="<b>hi</b>", answer=answer)],
    )
    settings = {"scheme": "8da4w", "group_size": 32, "algorithm": "rtn", "transform": "none", "mixed_bits": None}
    what = manifest.what.model_copy(update={"settings": {"recipe": {**settings, **recipe}}})
    errors = {"layers.0.self_attn.q_proj": 0.1, "layers.0.mlp.up_proj": 0.2, "layers.1.self_attn.q_proj": 0.3}
    return Outcome(
        name=name,
        manifest=manifest.model_copy(update={"what": what}),
        parts={"embedding": size // 4, "attention": size // 4, "feed-forward": size // 4, "program": size // 4},
        weight_errors={} if recipe.get("transform") == "awq" else errors,
        layer_errors=(0.1, 0.2),
    )


@pytest.fixture(scope="module")
def made():
    return comparison.Comparison(
        model="a<b",
        date="2026-01-02",
        machine="a computer",
        overrides=("verify.text=notes.txt",),
        outcomes=(
            outcome("whole", 4000, 1e-9, scheme="fp32", group_size=0),
            outcome("plain", 1000, 0.04),
            outcome("better", 1000, 0.02, algorithm="gptq", answer="hallo <you>"),
            outcome("scaled", 1100, 0.03, passed=False, transform="awq", group_size=0),
            Outcome(name="wide", refused=SENTENCE),
        ),
    )


@pytest.fixture(scope="module")
def images(made):
    return pictures(made)


class References(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self):
        super().__init__()
        self.loads, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "poster", "data", "action")]

    def handle_data(self, data):
        self.words.append(data)


def read(html):
    parser = References()
    parser.feed(html)
    return parser


def test_the_front_of_a_comparison(made):
    assert best(made) == ["better", "whole"]


def test_the_documentation_keeps_the_figures_of_each_model(made, tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    for name in ("small", "large", "small"):
        raw = made.model_dump(mode="json")
        for each in filter(None, (found["manifest"] for found in raw["outcomes"])):
            each["what"]["settings"]["model"] = {"name": name}
        (tmp_path / "compare.json").write_text(json.dumps(raw))
        docs.keep_comparison(tmp_path, tmp_path)
    kept = json.loads((tmp_path / "docs" / "results" / "compare.json").read_text())["models"]
    assert list(kept) == ["small", "large"]
    table = quality_tables.compared(kept)
    assert "#### large, on the built-in conversations" in table
    assert "| `whole` | 4.0 kB |  |  | 0.0000 | 90.00 % |" in table
    assert "`scaled` (gate failed)" in table
    assert "verify.text=notes.txt" in table


def test_the_page_refers_to_nothing_outside(made, images):
    found = read(page(made, images))
    assert found.loads
    assert all(each.startswith("data:image/png;base64,") for each in found.loads)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert not re.search(r"url\(|@import|https?://", page(made, images))


def test_every_recipe_is_on_the_page_with_its_verdict(made, images):
    words = " ".join(" ".join(read(page(made, images)).words).split())
    for each in made.outcomes:
        assert each.name in words
    assert "failed: top1 against original is 0.5, threshold 0.9" in words
    assert f"wide : {SENTENCE}" in words
    assert re.search(r"scaled is left out: the weights were scaled before", words)


def test_what_models_and_people_say_is_text_and_not_html(made, images):
    found = read(page(made, images))
    assert {"hallo <you>", "<b>hi</b>", "guten Tag"} <= set(found.words)
    assert {"b", "you"}.isdisjoint(found.tags)


def test_pictures_are_png(images):
    assert set(images) == {"quality.png", "parts.png", "weights.png", "layers.png"}
    assert all(content.startswith(b"\x89PNG") for content in images.values())


def test_pictures_of_the_original_alone():
    whole = outcome("whole", 4000, 0.0, scheme="fp32").model_copy(update={"weight_errors": {}, "layer_errors": (0.0,)})
    alone = comparison.Comparison(model="m", date="2026-01-02", machine="", overrides=(), outcomes=(whole,))
    images = pictures(alone)
    assert set(images) == {"quality.png", "parts.png"}
    assert "whole" in page(alone, images)


def test_figures_are_those_on_the_text_where_there_is_one():
    manifest = make_manifest({PTE: File(size=9, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)})
    found = figures(Outcome(name="x", manifest=manifest))
    assert (found.perplexity, found.kl, found.top1) == (22.25, 0.03, 0.965)
    assert found.accuracy == (89.0, -1.0)
    assert figures(outcome("y", 9, 0.5)).kl == 0.5


def test_files_are_whole_or_absent(made, tmp_path, monkeypatch):
    report = write(made, tmp_path / "out")
    names = {"report.html", "bundles.html", "compare.json", "quality.png", "parts.png", "weights.png", "layers.png"}
    assert {each.name for each in report.parent.iterdir()} == names
    before = report.read_bytes()
    assert comparison.Comparison.model_validate_json((report.parent / "compare.json").read_bytes()) == made
    assert json.loads((report.parent / "compare.json").read_bytes())["model"] == "a<b"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(made.model_copy(update={"model": "another"}), report.parent)
    assert report.read_bytes() == before
    assert {each.name for each in report.parent.iterdir()} == names
    assert json.loads((report.parent / "compare.json").read_bytes())["model"] == "a<b"
