"""`recipe=auto`: what is tried, in which order, and what is chosen."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from et_pipeline import CONF, forecast, tiny_assistant
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.errors import UserError
from et_pipeline.evaluation.verified import Losses
from et_pipeline.forecast import architecture_of
from et_pipeline.job.composed import composed
from et_pipeline.manifest import Agreement, Check, Gate
from et_pipeline.pipeline.checks import given_texts
from et_pipeline.pipeline.search import CHOSEN, MIXED_BITS, Candidate, candidates, choose, ladder
from et_pipeline.report.tables import searched
from et_pipeline.stages import Tried

KNOWN = architecture_of(Folder(tiny_assistant.CHECKPOINT))


def auto(*words):
    return composed(["recipe=auto", *words])


def tried(*kls, loss=0.0):
    """Of sequences with these divergences, whose answers are that much less likely, in nats per token."""
    return Tried(
        found=[Agreement(positions=10, cosine=1.0, min_cosine=1.0, max_abs_diff=0.0, kl=kl, top1=1.0) for kl in kls],
        losses=[Losses(tokens=10, original=20.0, deployed=20.0 + 10 * loss) for _ in kls],
    )


@pytest.mark.parametrize("turns", [True, False])
def test_the_words_of_a_try_ask_for_that_very_recipe(turns):
    """What the search ends in can be typed by hand."""
    for words, change in ladder(turns).items():
        typed = composed(words.split(" ")).recipe
        ours = auto().recipe.model_copy(update={**change, "prefer": None})
        assert typed.quantization.model_dump(exclude={"calibration"}) == ours.quantization.model_dump(
            exclude={"calibration"}
        ), words
        assert typed.name == ours.name


def test_candidates_come_in_the_order_that_is_preferred():
    model = ["model.prefill_chunk=64"]
    found = {
        prefer: candidates(auto(f"recipe.prefer={prefer}", *model), KNOWN, "llama", False)
        for prefer in ("size", "speed", "quality")
    }
    bits = [each.recipe.mixed_bits for each in found["size"] if each.recipe.mixed_bits]
    assert bits == sorted(bits) == list(MIXED_BITS)
    assert {each.recipe.name for each in found["size"][-2:]} == {"8da4w-rotation-mixed8.0-g32", "int8_weight_only"}
    assert [each.words for each in found["quality"]] == [each.words for each in reversed(found["size"])]
    assert {each.words for each in found["speed"]} == {each.words for each in found["size"]} | {"recipe=8da8w_rotation"}
    assert all(each.recipe.prefer is None for each in found["size"])


def test_layers_that_cannot_be_turned_are_not():
    found = candidates(auto("recipe.prefer=speed"), KNOWN, "gemma2", True)
    assert {each.recipe.transform for each in found} == {"none"}
    assert "recipe=8da4w" in {each.words for each in found}


def verdict(passed, name="KL to original", interval=(0.2, 0.3)):
    check = Check(name=name, value=0.25, threshold=0.1, interval=interval and list(interval), passed=passed)
    return Gate(thresholds={}, checks=[check], passed=passed)


def test_a_recipe_that_takes_more_bytes_is_as_good_or_better():
    """Where the head is tied, a mixed recipe holds it once, in 8 bits, and all in 4 bits holds it twice."""
    made = composed(["model=gemma3_270m", "recipe.prefer=quality", "task=chat"])
    found = candidates(made, forecast.read_model(made.model), "gemma3_text", False)
    names = [each.recipe.name for each in found]
    assert "8da4w-g32" not in names
    assert "8da8w" not in names
    assert [each.recipe.mixed_bits for each in found if each.recipe.mixed_bits] == [*MIXED_BITS[::-1]]


def test_integers_of_a_checkpoint_are_tried_as_they_are(monkeypatch):
    found = candidates(auto(), KNOWN, "llama", True)
    assert [each.apart for each in found] == [True, *[False] * (len(found) - 1)]
    assert found[0].recipe.transform == "none"
    made = []
    for good in (True, False):
        kls = {each.recipe.name: 0.01 if each is found[0] and good else 0.2 for each in found[:-1]}
        paths = choose(
            found,
            auto().recipe,
            lambda recipe, kls=kls: tried(*[kls.get(recipe.name, 0.01)] * 3),
            lambda recipe: made.append(recipe.name),
        )
        assert len(paths) == 1 if good else len(paths) > 2
    assert made == [found[0].recipe.name, found[-1].recipe.name]


def ordered(count, prefer="size"):
    wanted = auto(f"recipe.prefer={prefer}").recipe
    recipes = [wanted.model_copy(update={"name": f"r{at}"}) for at in range(count)]
    return wanted, [Candidate(f"recipe={each.name}", each, 1000 + at) for at, each in enumerate(recipes)]


@pytest.mark.parametrize("first", range(7))
@pytest.mark.parametrize(("prefer", "most"), [("size", 4), ("speed", 6), ("quality", 6)])
def test_the_first_that_passes_is_found(first, prefer, most):
    wanted, candidates_ = ordered(6, prefer)
    asked, made = [], []

    def make(recipe):
        made.append(recipe.name)

    def attempt(recipe):
        asked.append(recipe.name)
        return tried(*[0.01 if int(recipe.name[1:]) >= first else 0.4 - 0.01 * int(recipe.name[1:])] * 3)

    path = choose(candidates_, wanted, attempt, make)
    assert made == [f"r{min(first, 5)}"]  # the least of those that do not pass
    assert len(asked) == len(set(asked)) <= most
    assert [each.words for each in path] == [f"recipe={name}" for name in sorted(asked)]
    assert [each.passed for each in path] == [int(each.words[-1]) >= first for each in path]
    assert [each.bytes for each in path] == [1000 + int(each.words[-1]) for each in path]


def test_the_best_is_taken_though_a_smaller_one_is_too_far():
    """From the largest on; by halves, one in the middle that fails would lead to the smallest."""
    wanted, candidates_ = ordered(6, "quality")
    made = []
    path = choose(
        candidates_,
        wanted,
        lambda each: tried(*[0.01 if each.name == "r0" else 0.4] * 3),
        lambda each: made.append(each.name),
    )
    assert made == ["r0"]
    assert len(path) == 1


@pytest.mark.parametrize(
    "first",
    [tried(0.0, 0.19), tried(0.01, 0.01, loss=0.2)],
    ids=["the KL's mean is below its threshold, its interval is not", "the KL is small, the answers are unlikely"],
)
def test_what_may_be_too_far_does_not_pass(first):
    wanted, candidates_ = ordered(2)
    found, made = {"r0": first, "r1": tried(0.01, 0.01)}, []
    path = choose(candidates_, wanted, lambda each: found[each.name], lambda each: made.append(each.name))
    assert made == ["r1"]
    assert [each.passed for each in path] == [False, True]


@pytest.mark.parametrize("prefer", ["size", "speed"])
@pytest.mark.parametrize("good", range(3, 6))
def test_the_search_goes_on_where_a_program_does_not_keep_what_its_try_promised(good, prefer):
    wanted, candidates_ = ordered(6, prefer)
    made = []

    def make(recipe):
        made.append(recipe.name)
        return verdict(int(recipe.name[1:]) >= good)

    path = choose(candidates_, wanted, lambda each: tried(*[0.01 if each.name > "r1" else 0.4] * 3), make)
    assert made == [f"r{at}" for at in range(2, good + 1)]
    assert [each.program for each in path if each.passed and each.program is not None] == [False] * (good - 2) + [True]


def test_a_program_that_no_recipe_would_mend_ends_the_search():
    wanted, candidates_ = ordered(6)
    made = []

    def make(recipe):
        made.append(recipe.name)
        return verdict(False, name="cosine to quantized eager, chunked", interval=None)

    path = choose(candidates_, wanted, lambda each: tried(0.01, 0.01), make)
    assert made == ["r0"]
    assert path[0].program is False


def test_the_path_is_shown():
    wanted, candidates_ = ordered(3)
    found = {"r0": tried(0.4, 0.4), "r1": tried(0.02, 0.03, loss=0.01), "r2": tried(0.01, 0.01)}
    path = choose(candidates_, wanted, lambda each: found[each.name], lambda each: verdict(each.name == "r2"))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(searched(path, "r2"))
    shown = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert shown[0] == "recipe=auto chose r2"
    assert shown[3] == "recipe=r1 1.0 kB 0.0250 [0.02, 0.03] 1.0101 [1.01, 1.01] its program fails"
    assert shown[4].endswith("passes")


def test_where_no_program_passes_the_nearest_is_made():
    wanted, candidates_ = ordered(3)
    kls, made = {"r0": 0.4, "r1": 0.02, "r2": 0.03}, []

    def make(recipe):
        made.append(recipe.name)
        return verdict(False)

    choose(candidates_, wanted, lambda each: tried(*[kls[each.name]] * 3), make)
    assert made == ["r1", "r2", "r1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["backend=qnn", "backend.soc=SM8650"], "recipe=auto does not search for backend=qnn"),
        (["backend=vulkan"], "recipe=auto does not search for backend=vulkan"),
        (["backend=qnn", "backend.soc=SM8650", "recipe.scheme=16a4w"], "recipe.scheme=16a4w is for a recipe"),
        (["model=minilm"], "recipe=auto compares answers, and this model embeds texts"),
        (["model=smollm2_135m", "model.source=random"], "model.source=random has none that mean anything"),
        (["recipe.group_size=64"], "recipe.group_size=64 is for a recipe that is named"),
        (["recipe.mixed_bits=6"], "recipe.mixed_bits=6.0 is for a recipe that is named"),
        (["recipe.calibration=null"], "recipe.calibration=null leaves recipe=auto nothing"),
        (["recipe.calibration.source=/no/such.txt"], "recipe.calibration.source=/no/such.txt"),
    ],
)
def test_where_nothing_is_searched(words, sentence, command):
    code, _, err = command("recipe=auto", *words)
    assert code == 2
    assert err.count("\n") <= 2
    assert sentence in err


def test_a_search_reads_the_calibration_text_that_was_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("Turn left at the station.")
    before = given_texts(auto(f"recipe.calibration.source={text}"))
    text.write_text("Turn right at the bridge.")
    after = given_texts(auto(f"recipe.calibration.source={text}"))
    assert before["calibration"][0] == after["calibration"][0] == text
    assert before["calibration"][1] != after["calibration"][1]


def test_what_a_search_chooses_is_what_its_file_holds():
    assert {name: getattr(auto().recipe, name) for name in CHOSEN} == CHOSEN


def test_small_models_are_searched_and_a_named_recipe_is_taken():
    named = [path.stem for path in (CONF / "model").glob("*.yaml") if "custom" not in path.stem]
    assert len(named) > 15
    for name in sorted({*named} - {"tiny_assistant"}):  # whose default is the demo's
        made = composed([f"model={name}"])
        parameters = forecast.read_model(made.model).parameters
        assert (made.recipe.prefer == "size") == (parameters < 2e9 and made.model.task != "embedding"), name
        assert composed([f"model={name}", "recipe=8da4w"]).recipe.prefer is None


def test_a_plan_says_that_it_is_of_another_recipe(command):
    code, out, err = command("recipe=auto", "mode=plan")
    assert code == 0
    assert "forecast is recipe=8da4w, and what it finds may be larger" in err
    assert "8da4w-g32" in out


@pytest.mark.slow
def test_auto_ends_in_an_ordinary_recipe_and_goes_on_where_it_stopped(command, tmp_path):
    words = ["recipe=auto", "task=chat", "verify.sequences=12", "format=json", f"paths.bundles={tmp_path}"]
    code, out, err = command(*words, "until=quantize")
    assert code == 0, err
    first = json.loads(out)
    assert first["trials"]
    assert not any(each["program"] for each in first["trials"])
    code, out, err = command(*words)
    assert code == 0, err
    document = json.loads(out)
    assert [{**each, "program": None} for each in document["trials"]] == first["trials"]
    assert [each["words"] for each in document["trials"] if each["program"]]
    assert "quantize" in document["reused"]
    recipe = document["manifest"]["what"]["settings"]["recipe"]
    assert recipe["prefer"] is None
    assert recipe["name"] != "auto"
    assert Path(document["bundle"]).name == "tiny_assistant-auto-xnnpack"


def test_no_recipe_at_all():
    settings = auto()
    with pytest.raises(UserError, match="knows no recipe"):
        candidates(
            settings.model_copy(update={"backend": settings.backend.model_copy(update={"name": "qnn"})}),
            KNOWN,
            "llama",
            False,
        )


def test_layers_with_a_mixer_are_not_rotated():
    made = composed(["model=lfm2_350m", "recipe=auto", "task=chat"])
    found = candidates(made, forecast.read_model(made.model), "lfm2", False)
    assert found
    assert {each.recipe.transform for each in found} == {"none"}
