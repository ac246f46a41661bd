"""The model card of a bundle, as the hub and a reader of Markdown see it."""

from __future__ import annotations

import itertools
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundle import PTE, make_embedding_manifest, make_gate, make_manifest
from markdown_it import MarkdownIt

from et_pipeline import manifest as bundle
from et_pipeline.report.card import base_model, model_card, plain

FILES = {name: bundle.File(size=1000, sha256="0" * 64) for name in (PTE, "tokenizer.json")}
REPOSITORY = "someone/tiny"
ODD = st.text(st.sampled_from("ab _*`~|[]<>#&$\\!-+:'\"\n\t\r\x00é漢.1/")) | st.text()
FIGURES = st.floats(0, 1e12, allow_nan=False)


def card_of(made):
    return model_card(made, REPOSITORY)


def header_of(card):
    """The header, by a parser of YAML alone and as huggingface_hub reads it."""
    assert card.startswith("---\n")
    read = yaml.safe_load(card[4:].split("\n---\n")[0])
    assert ModelCard(card).data.to_dict() == read
    return read


def rendered(card):
    """The title, and the table's rows, as text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card[4:].split("\n---\n", 1)[1])
    kinds = [token.type for token in tokens]
    title = text_of(tokens[kinds.index("heading_open") + 1])
    rows, cells = [], []
    for before, token in itertools.pairwise(tokens):
        if before.type == "td_open":
            cells.append(text_of(token))
        if token.type == "tr_close" and cells:
            rows.append(tuple(cells))
            cells = []
    return title, rows


def text_of(token):
    assert {each.type for each in token.children} <= {"text", "text_special", "html_inline"}
    return "".join("\n" if each.content == "<br>" else each.content for each in token.children)


def one_line(text):
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def with_what(made, **changes):
    return made.model_copy(update={"what": made.what.model_copy(update=changes)})


@settings(deadline=None, max_examples=100)
@given(name=ODD.filter(one_line), licence=ODD | st.none(), source=ODD, where=ODD.filter(one_line), figure=FIGURES)
def test_whatever_a_manifest_says_the_card_can_be_read(name, licence, source, where, figure):
    made = make_manifest(FILES)
    speed = made.speed[0].model_copy(
        update={"where": where, "ttft_ms": bundle.Percentiles(p10=figure, p50=figure, p90=figure)}
    )
    made = made.model_copy(update={"speed": [speed]})
    made = with_what(made, name=name, licence=licence, source=bundle.Source(source=source, files={}))
    card = card_of(bundle.Manifest.model_validate_json(made.model_dump_json()))
    header = header_of(card)
    assert header["tags"] == ["executorch", "et_pipeline", "xnnpack", "on-device"]
    assert isinstance(header.get("license", ""), str)
    assert header.get("base_model", source) == source
    title, rows = rendered(card)
    assert title == one_line(name)
    figures = dict(rows)
    assert len(figures) == len(rows)
    assert f"first token after {figure:.1f} ms" in figures[one_line(f"speed on {where}")]
    assert figures["vs original"].endswith("KL 0.0000 nats")


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),  # as SPDX writes it
        ("'mit'", {"license": "mit"}),
        ("no", {"license": "no"}),
        ("other", {"license": "other", "license_link": "https://huggingface.co/org/model"}),
        (
            "Tiny Research Licence (v2)",
            {
                "license": "other",
                "license_name": "tiny-research-licence-v2",
                "license_link": "https://huggingface.co/org/model",
            },
        ),
        (None, {}),
    ],
)
def test_licence(licence, fields):
    made = make_manifest(FILES)
    made = with_what(made, licence=licence, source=bundle.Source(source="org/model", files={}))
    card = card_of(made)
    header = header_of(card)
    assert {key: value for key, value in header.items() if key.startswith("license")} == fields
    assert "[org/model](https://huggingface.co/org/model)" in card.split("## Licence")[1]
    assert ("does not know the licence" in card) == (licence is None)


@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("builtin:tiny_assistant", None),
        ("my-folder", None),
        ("models/tiny.gguf", None),
        ("a/b/c", None),
    ],
)
def test_base_model(source, base):
    made = with_what(make_manifest(FILES), source=bundle.Source(source=source, files={}))
    assert base_model(made) == base
    assert header_of(card_of(made)).get("base_model") == base


def test_limits_are_said():
    made = make_manifest(FILES, quality=bundle.Quality(gate=make_gate(passed=False)), speed=[])
    program = made.programs[0].model_copy(update={"executed": False, "notice": "Compiled with care."})
    limits = card_of(made.model_copy(update={"programs": [program]})).split("## Limits")[1].split("##")[0]
    for sentence in (
        "**The quality gate failed.** model.pte: top1 against original is 0.5, threshold 0.9.",
        "model.pte itself was **not executed** where it was made",
        "at most 512 tokens",
        "Compiled with care.",
        "Its speed was not measured.",
        "May be wrong.",
    ):
        assert sentence in limits


def test_each_program_and_machine_is_named():
    made = make_manifest(FILES)
    second = made.programs[0].model_copy(update={"recipe": "16a4w", "soc": ["SM8650"], "quality": made.quality})
    made = made.model_copy(
        update={
            "programs": [made.programs[0], second],
            "speed": [*made.speed, *made.speed, made.speed[0].model_copy(update={"where": "Pixel 8"})],
        }
    )
    _, rows = rendered(card_of(made))
    figures = dict(rows)
    assert figures["speed on a computer"] == "\n".join([figures["speed on Pixel 8"]] * 2)
    assert figures[PTE] == "xnnpack, 16a4w, for SM8650, 1.0 kB; gate passed"


def test_what_embeds_is_told_apart():
    card = card_of(make_embedding_manifest(FILES))
    assert header_of(card)["pipeline_tag"] == "feature-extraction"
    assert "et-bundle embed bundles/tiny" in card
    assert "LlmModule" not in card


def test_names_of_files_and_recipes_stay_readable():
    assert plain("tiny_assistant-8da4w-g32 (xnnpack)") == "tiny_assistant-8da4w-g32 (xnnpack)"


def test_commands_of_the_card_are_those_of_et_bundle():
    from typer.main import get_command

    from et_pipeline.cli.bundle import app

    for made, names in (
        (make_manifest(FILES), ["pull", "chat", "push"]),
        (make_embedding_manifest(FILES), ["pull", "embed"]),
    ):
        lines = re.findall(r"^et-bundle (\w+) (.*?)(?:  #.*)?$", card_of(made), re.MULTILINE)
        assert [name for name, _ in lines] == names
        for name, arguments in lines:
            get_command(app).commands[name].make_context(name, arguments.split())
