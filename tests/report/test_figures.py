"""The Pareto front, and how far a program is from the original."""

from hypothesis import given
from hypothesis import strategies as st
from made_bundle import PTE, make_manifest

from et_pipeline.manifest import File
from et_pipeline.report.figures import OWN, accuracy, distance, front

NUMBERS = st.integers(0, 6).map(float)  # few, so that many are equal
FILES = {PTE: File(size=9, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)}


@given(st.dictionaries(st.integers().map(str), st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    def beaten(one):
        return any(
            other[0] <= one[0] and other[1] <= one[1] and other != one for name, other in points.items()
        )  # differing, so better in one

    chosen = front(points)
    assert set(chosen) == {name for name, one in points.items() if not beaten(one)}
    assert len(chosen) == len(set(chosen))
    assert [points[name][0] for name in chosen] == sorted(points[name][0] for name in chosen)


def test_distance_is_on_the_text_where_there_is_one():
    quality = make_manifest(FILES).quality
    on_text = distance(quality)
    assert (on_text.measured_on, on_text.kl, on_text.ratio) == ("notes.txt", 0.03, 22.25 / 21.5)
    own = distance(quality.model_copy(update={"text": None}))
    assert (own.measured_on, own.kl, own.ratio) == (OWN, 1e-5, 9.5 / 9.0)
    assert distance(quality.model_copy(update={"text": None, "agreement": None})) is None


def test_accuracy_is_the_mean_of_the_tasks():
    quality = make_manifest(FILES).quality
    assert accuracy(quality) == (89.0, -1.0)
    assert accuracy(quality.model_copy(update={"tasks": {}})) is None
