"""The closing tables."""

from made_bundle import PTE, make_manifest

from et_pipeline.manifest import File
from et_pipeline.report.tables import closing_rows


def test_what_runs_outside_is_counted_and_the_rest_is_said_elsewhere():
    """Upstream's reasons are of types and ranks: who wants them looks into the bundle."""
    files = dict.fromkeys((PTE, "tokenizer.json"), File(size=1, sha256="0" * 64))
    made = make_manifest(files)
    counted = {"fallback_operators": {"aten::cat.out": 2, "aten::add.out": 1}}
    reasons = {"fallback_reasons": {"aten::cat.out": "only support concatenation of > 2 tensors, got 1 tensors"}}
    told = []
    for changes in ({"fallback_operators": {}}, counted, counted | reasons):
        program = made.main.model_copy(update=changes)
        rows = closing_rows(made.model_copy(update={"programs": [program]}))
        assert "concatenation" not in "".join(map(str, rows.values()))
        told.append(str(rows["program"]).partition("delegates, ")[2].partition(", context")[0])
    assert told == ["0 operators outside", "3 operators outside", "3 operators outside (et-bundle inspect says why)"]
