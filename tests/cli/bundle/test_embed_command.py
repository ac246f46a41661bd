"""`et-bundle embed`."""

from __future__ import annotations

import json


def test_embed_shows_how_similar_texts_are(run, embeddings):
    code, out, err = run("embed", embeddings, "a", "bb", "c")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines() if line.strip()][2:] == [
        ["1", "1.000", "0.949", "1.000", "a"],
        ["2", "0.949", "1.000", "0.949", "bb"],
        ["3", "1.000", "0.949", "1.000", "c"],
    ]


def test_embed_json_and_a_text_that_is_cut(run, embeddings):
    code, out, err = run("embed", embeddings, "a", "x" * 100, "--json")
    assert code == 0
    assert json.loads(out)["embeddings"] == [[1.0, 1.0], [64.0, 1.0]]
    assert "Text 2 has 100 tokens, and what follows the first 64 was left out." in err


def test_embed_refuses_an_empty_text_and_a_model_that_answers(run, embeddings, folder):
    code, _, err = run("embed", embeddings, "")
    assert (code, err) == (2, "a text has 0 tokens, and the program takes 1 to 64\n")
    code, _, err = run("embed", folder, "a")
    assert (code, err) == (2, "tiny answers and does not embed texts: use 'et-bundle chat' with it.\n")
