"""et-pipeline report: what is found under a folder, the fronts, and the page."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bundle import PTE, make_manifest

from et_pipeline.errors import UserError
from et_pipeline.manifest import File
from et_pipeline.report import bundles_page
from et_pipeline.report.bundles import METRICS, Cell, Row, columns, find, fronts, rows
from et_pipeline.report.bundles_page import anchor, page

BROKEN = {"short": "'model.pte' is truncated", "extension": "'format' must be", "photos.zip": "neither a bundle folder"}
NUMBERS = st.integers(0, 4).map(float)
ROWS = st.lists(
    st.builds(
        lambda model, passed, figures: Row("x", model, passed, {k: Cell("", v) for k, v in figures.items()}),
        st.sampled_from("ab"),
        st.booleans(),
        st.dictionaries(st.sampled_from(["size", "KL", "decode"]), NUMBERS),
    ),
    max_size=10,
)


class Elements(HTMLParser):
    """Collects a page's tags with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def html(shelf):
    return page("shelf", *find(shelf))


def test_folders_and_zips_are_found_however_deep(shelf):
    found, left_out = find(shelf)
    assert {"alpha-g32", "deep/er/beta-fp32", "packed/beta-g32", "packed/beta.zip", "for-chips"} <= found.keys()
    assert not any(name.startswith("half") for name in found)  # a run's unfinished work
    assert len(left_out) == len(BROKEN)
    for name, words in BROKEN.items():
        assert any(name in sentence and words in sentence for sentence in left_out), name


def test_a_bundle_itself_is_found_by_its_name(shelf):
    assert list(find(shelf / "alpha-g32")[0]) == ["alpha-g32"]


def test_a_row_is_a_program_with_its_own_figures(shelf):
    made = rows({name: each for name, each in find(shelf)[0].items() if name in ("for-chips", "vectors")})
    by_backend = {row.cells["backend"].text: row for row in made if row.bundle == "for-chips"}
    chip, other = by_backend["qnn SM8650"], by_backend["xnnpack"]
    assert chip.cells["verdict"].aside == "not executed"
    assert not {"KL", "decode"} & chip.cells.keys()
    assert (other.cells["KL"].text, other.cells["KL"].aside) == ("0.0040", " [0.002, 0.008]")
    assert (other.cells["size"].value, other.cells["decode"].text) == (17_000, "100")
    (vectors,) = (row for row in made if row.bundle == "vectors")
    assert (vectors.model, vectors.cells["cosine"].text, vectors.cells["a text"].text) == ("minilm", "0.99900", "2.0")


def test_columns_that_no_bundle_has_are_left_out(shelf):
    found, _ = find(shelf)
    assert {"cosine", "a text", "KL"} <= set(columns(rows(found)))
    some = columns(rows({"one": found["alpha-g32"]}))
    assert {"KL", "perplexity ratio", "decode", "context"} <= set(some)
    assert not {"cosine", "a text", "KL measured on"} & set(some)


def test_what_was_measured_on_different_texts_says_so():
    files = {PTE: File(size=9, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)}
    on_text = make_manifest(files)
    own = on_text.model_copy(update={"quality": on_text.quality.model_copy(update={"text": None})})
    assert "KL measured on" in columns(rows({"a": on_text, "b": own}))
    assert "KL measured on" not in columns(rows({"a": on_text, "b": on_text}))


def test_models_of_one_name_are_told_apart_by_their_source(shelf):
    one = find(shelf)[0]["alpha-g32"]
    source = one.what.source.model_copy(update={"source": "another"})
    other = one.model_copy(update={"what": one.what.model_copy(update={"source": source})})
    assert [row.model for row in rows({"a": one, "b": other})] == ["alpha, another", "alpha, builtin:tiny"]
    assert [row.model for row in rows({"a": one, "b": one})] == ["alpha", "alpha"]


@given(ROWS)
def test_no_point_of_a_front_is_beaten_and_each_other_one_is(made):
    found = fronts(made)
    assert len(found) == len(METRICS) * (len(METRICS) - 1) // 2
    for x, y in permutations(["size", "KL", "decode"], 2):
        if f"{x}|{y}" not in found:
            continue
        points = {
            n: [row.cells[name].value * (1 if METRICS[name].less else -1) for name in (x, y)]
            for n, row in enumerate(made)
            if row.passed and {x, y} <= row.cells.keys()
        }
        for scope in ("all", "model"):
            chosen = found[f"{x}|{y}"][scope]
            for n, (a, b) in points.items():
                rivals = [points[o] for o in points if scope == "all" or made[o].model == made[n].model]
                beaten = any(c <= a and d <= b and (c, d) != (a, b) for c, d in rivals)
                assert (n in chosen) != beaten
            assert set(chosen) <= points.keys()


def test_each_row_leads_to_its_bundles_own_part(html, shelf):
    found = Elements(html)
    parts = {attributes["id"] for tag, attributes in found.tags if tag == "section"}
    leads = {attributes["href"] for tag, attributes in found.tags if tag == "a"}
    assert parts == {anchor(name) for name in find(shelf)[0]}
    assert leads == {f"#{part}" for part in parts} | {"#"}


def test_the_page_refers_to_nothing_outside(html):
    found = Elements(html)
    names = ("src", "href", "srcset", "poster", "data", "action", "xlink:href")
    loads = [attributes[name] for _, attributes in found.tags for name in names if name in attributes]
    assert loads
    assert all(each.startswith("#") for each in loads)
    assert not {"link", "iframe", "object", "img", "form"} & {tag for tag, _ in found.tags}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert not re.search(r"url\(|@import", style)
    (policy,) = (each["content"] for _, each in found.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_what_manifests_and_folders_say_is_text(html):
    found = Elements(html)
    script, link, odd = "<script>alert(1)</script>", '<a href="//x.y">z</a>', 'o&d "d" <b>#1%'
    assert {script, link, odd} <= set(found.words)
    assert [tag for tag, _ in found.tags].count("script") == 3  # the data, plotly, ours
    assert "b" not in {tag for tag, _ in found.tags}
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    assert not set("<>&") & set(data)
    assert {point["model"] for point in json.loads(data)["points"]} >= {script, "alpha", "beta"}


def test_broken_ones_are_named_on_the_page(html):
    words = " ".join(Elements(html).words)
    for name, sentence in BROKEN.items():
        assert name in words
        assert sentence in words


def test_same_bundles_same_bytes(html, shelf):
    assert page("shelf", *find(shelf)) == html


def test_without_plotly_is_one_sentence(shelf, monkeypatch):
    monkeypatch.setattr(bundles_page, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'et-pipeline\[report\]'"):
        page("shelf", *find(shelf))


def test_the_command_writes_the_page_and_names_what_is_left_out(command, shelf, tmp_path):
    code, out, err = command("report", str(shelf), "--out", str(tmp_path / "new" / "page.html"))
    assert code == 0
    assert re.fullmatch(rf"\d+ bundles: {tmp_path}/new/page.html \(\d\.\d MB\)\n", out)
    assert sum(line.startswith("left out: ") for line in err.splitlines()) == len(BROKEN)
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_folder_without_bundles_is_one_sentence(command, tmp_path):
    for arguments, words in (
        ([], "bundles is no folder"),
        (["."], ". has no bundle that can be read; et-pipeline experiment=demo"),
    ):
        code, _, err = command("report", *arguments)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_not_written_into_a_bundle_or_where_nothing_can_be_written(command, shelf, tmp_path):
    inside = shelf / "alpha-g32" / "report.html"
    code, _, err = command("report", str(shelf), "--out", str(inside))
    assert (code, inside.exists()) == (2, False)
    assert "is inside a bundle" in err
    (tmp_path / "file").write_text("")
    code, _, err = command("report", str(shelf), "--out", str(tmp_path / "file" / "page.html"))
    assert code == 2
    assert "cannot be written: " in err


@pytest.mark.linux("whose names are bytes")
def test_a_name_that_is_no_text_is_shown_with_escapes(command, shelf, tmp_path):
    shutil.copytree(shelf / "alpha-g32", tmp_path / "bundles" / os.fsdecode(b"good\xff"))
    (tmp_path / "bundles" / os.fsdecode(b"bad\xfe.zip")).write_bytes(b"")
    code, out, err = command("report")
    assert (code, out[:9]) == (0, "1 bundle:"), err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "good\\udcff" in page
    assert "bad\\udcfe.zip is neither a bundle folder" in page
