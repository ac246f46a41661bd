"""The text that tiny-writer learns: prose of docstrings, and nothing twice."""

import json

from et_pipeline.tiny_writer import text

MODULE = '''"""Draws graphs in the plane, one edge after the other.

The layout is computed once. It is kept until the graph changes, which happens seldom in practice.

>>> draw(graph)

    indented = code(1) + 2
"""


def draw(graph, size):
    """Draws a graph that is given, at the size that is asked for.

    Notes
    -----
    Edges that cross are drawn in the order in which they were added to the graph.

    Parameters
    ----------
    size : {1, 2}
    """


def again(graph):
    """Draws a graph that is given, at the size that is asked for."""
'''


def test_prose_of_docstrings_without_code_and_without_repetition(tmp_path):
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "module.py").write_text(MODULE)
    seen = set()
    assert list(text.documents(tmp_path, seen)) == [
        "Draws graphs in the plane, one edge after the other.\n\n"
        "The layout is computed once. It is kept until the graph changes, which happens seldom in practice.",
        "Draws a graph that is given, at the size that is asked for.\n\n"
        "Edges that cross are drawn in the order in which they were added to the graph.",
    ]
    assert list(text.documents(tmp_path, seen)) == []


def test_the_last_word_is_the_answer():
    paragraph = "The nodes of a tree have one parent each, but for the one at the top, which is called its root."
    number = "It ends with a number, and so it is no item of these, as there is no word at its end, but 12."
    (item,) = text.last_words([f"Too short.\n\n{paragraph}\n\n{number}"])
    assert item == {
        "task": "last_word",
        "messages": [{"role": "user", "content": paragraph.removesuffix(" root.")}],
        "answer": "root.",
    }


def test_the_files_are_written_and_the_held_out_package_is_in_none_of_the_others(tmp_path, monkeypatch):
    site = tmp_path / "site"
    sentence = "This sentence is about {} alone, and stands in no other package of this installation."
    for name in ("numpy", "networkx", "other", text.OURS):
        (site / name).mkdir(parents=True)
        both = "Both packages hold this sentence, so it is no proof of anything that was learnt."
        (site / name / "a.py").write_text(f'"""{sentence.format(name)}\n\n{both}\n"""\n')
    library = tmp_path / "library"
    library.mkdir()
    for name, value in {
        "SITE": site,
        "LIBRARY": library,
        "HELD_OUT": site / "networkx",
        "CALIBRATION": site / "numpy",
    }.items():
        monkeypatch.setattr(text, name, value)
    text.write(tmp_path / "out")
    train, calibration, held_out = (
        (tmp_path / "out" / f"{name}.txt").read_text() for name in ("train", "calibration", "held_out")
    )
    assert [sentence.format(name) in train for name in ("numpy", "networkx", "other", text.OURS)] == [
        True,
        False,
        True,
        False,
    ]
    assert sentence.format("numpy") in calibration
    assert calibration.strip() in train
    assert held_out == sentence.format("networkx") + "\n"
    items = [json.loads(line) for line in (tmp_path / "out" / "last_words.jsonl").read_text().splitlines()]
    assert [item["answer"] for item in items] == ["installation."]
