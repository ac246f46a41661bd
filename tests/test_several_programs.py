"""One bundle with several programs: which are made of lists on the command line, and what becomes of one that fails."""

import json

import pytest

from et_pipeline import CONF, job, manifest, pipeline
from et_pipeline.pipeline import acquiring, steps
from et_pipeline.stages import acquire
from et_pipeline.worker import StageKilled

DEVICES = "device=[galaxy_s24_snapdragon,oneplus_12,galaxy_s25,pixel_9]"
BOTH = ("backend=[xnnpack,qnn]", "recipe=[8da4w,16a4w_lpbq]")


@pytest.fixture
def programs(command, monkeypatch):
    """What would be run: backend, recipe and chips of each program, and the bundle's name."""
    seen = []
    monkeypatch.setattr(job, "_run", lambda settings, outputs, *_: seen.extend(settings) or pipeline.Result())

    def of(*arguments):
        seen.clear()
        code, _, err = command(*arguments)
        assert code == 0, err
        assert len({each.name for each in seen}) == 1
        return seen[0].name, [(each.backend.name, each.recipe.name, each.backend.socs) for each in seen]

    return of


def test_each_backend_takes_the_recipe_that_it_supports_and_each_npu_gets_a_program(programs):
    name, made = programs(*BOTH, DEVICES)
    assert made == [
        ("xnnpack", "8da4w-g32", ()),
        ("qnn", "16a4w-b32", ("SM8650",)),
        ("qnn", "16a4w-b32", ("SM8750",)),
    ]
    assert name == "tiny_assistant-8da4w-g32-xnnpack-16a4w-b32-qnn"


def test_chips_with_the_same_npu_share_a_program(programs, tmp_path):
    (tmp_path / "device").mkdir()
    text = (CONF / "device" / "snapdragon_8_elite_gen5.yaml").read_text()
    (tmp_path / "device" / "gen5.yaml").write_text(text.replace("SM8850", "SM8845"))
    arguments = ("--config-dir", str(tmp_path), "backend=qnn", "recipe=16a4w", "name=two")
    name, made = programs(*arguments, "device=[snapdragon_8_elite_gen5,gen5]")
    assert (name, made) == ("two", [("qnn", "16a4w", ("SM8850", "SM8845"))])


def test_other_settings_hold_for_every_program(programs):
    _, made = programs(*BOTH, "device=galaxy_s25", "recipe.group_size=64")
    assert made == [("xnnpack", "8da4w-g64", ()), ("qnn", "16a4w-b64", ("SM8750",))]


def test_a_plan_looks_at_every_device(command):
    code, out, _ = command("mode=plan", "device=[galaxy_s22,pixel_9]", "format=json")
    assert code == 0
    assert [each["device"] for each in json.loads(out)] == ["Samsung Galaxy S22", "Google Pixel 9"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("model=[minilm,smollm2_135m]",), "model=[minilm,smollm2_135m] holds several values; add -m to run each"),
        (("backend=[xnnpack,xnnpack]",), "backend=[xnnpack,xnnpack] must hold different names"),
        (("device=[]",), "device=[] must hold different names, and at least one"),
        (("backend=[xnnpack,qnnn]",), "backend=qnnn does not exist; choose from"),
        (("backend=[xnnpack,qnn]", DEVICES), "does not run on backend=qnn: Qualcomm's NPU takes"),
        ((*BOTH, "device=[pixel_9,pixel_8]"), "backend.soc=Tensor G4 is not a Qualcomm chip"),
    ],
)
def test_what_cannot_be_one_bundle_is_one_sentence(command, tmp_path, arguments, sentence):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "bundles").exists()


AGREEMENT = {"positions": 2, "cosine": 1.0, "min_cosine": 1.0, "max_abs_diff": 0.0, "kl": 0.0, "top1": 1.0}
WAYS = {way: [AGREEMENT] for way in ("one_piece", "chunked", "token_by_token")}
FIGURES = {
    "sample": {"tokens": 1},
    "quantize": {"bytes": 1},
    "export": {"bytes": 1},
    "lower": {"bytes": 5, "delegation": {"delegates": 1, "delegated_operators": {}, "fallback_operators": {}}},
    "verify": {
        "quantized": WAYS,
        "original": WAYS,
        "eager": [AGREEMENT],
        "witness": {"name": "et_pipeline", "version": "1", "note": "a test", "layers": None, "agreement": None}
        | {"difference": None, "allowed": None},
        "rounding": None,
        "long": None,
        "losses": [],
        "greedy": {"prompts": 2, "equal": 1, "tokens": 10, "agreement": 0.9},
        "tasks": {},
        "text": None,
        "samples": [],
    },
}


@pytest.fixture
def killed(monkeypatch):
    """Stages that make nothing but figures, and of which those for the chips in this list are killed in `lower`."""
    chips = []

    def run_stage(module, inputs, out, config, seed, log, tick):
        stage = module.rpartition(".")[2]
        if stage == "acquire":
            return acquire.run(inputs, out, tick, **config).model_dump(), {
                "wall_s": 0.0,
                "cpu_s": 0.0,
                "peak_rss_bytes": 0,
            }
        log.write_text("the compiler's last words")
        if stage == "lower" and config["backend"].soc in chips:
            raise StageKilled("…", "was ended by SIGKILL")
        (out / "model.pte").write_bytes(b"12345")
        return FIGURES[stage], {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0}

    for module in (acquiring, steps):
        monkeypatch.setattr(module, "run_stage", run_stage)
    return chips


ARGUMENTS = ("backend=[portable,qnn]", "recipe=[fp32,16a4w]", "device=[galaxy_s25,oneplus_12]", "name=made")


def test_programs_for_a_chip_come_first_and_have_their_own_figures(command, killed, tmp_path):
    code, out, err = command(*ARGUMENTS)
    assert code == 0, err
    made = manifest.read(tmp_path / "bundles" / "made")
    assert [(each.file, each.soc) for each in made.programs] == [
        ("qnn-sm8750.pte", ["SM8750"]),
        ("qnn-sm8650.pte", ["SM8650"]),
        ("portable.pte", []),
    ]
    assert made.main.file == "portable.pte"
    assert [each.recipe for each in made.programs if each.memory and each.quality and each.stages] == ["16a4w"] * 2
    assert len(made.gates) == 3
    npu, cpu = made.memory_of(made.programs[0]), made.memory
    assert 2 * npu.kv_cache_bytes == cpu.kv_cache_bytes  # the NPU's is of 16-bit integers
    for text in ("SM8750", "SM8650", "portable", "1 of 2 equal"):
        assert text in out


def test_a_program_that_fails_leaves_the_others_in_the_bundle(command, killed, tmp_path):
    killed.append("SM8750")
    code, out, err = command(*ARGUMENTS)
    assert code == 2
    assert "qnn SM8750: stage lower: Qualcomm's libraries took their process down (it was ended by SIGKILL" in err
    assert err.splitlines()[-1].endswith("; the bundle has the others")
    made = manifest.read(tmp_path / "bundles" / "made")
    assert [each.file for each in made.programs] == ["qnn-sm8650.pte", "portable.pte"]
    assert "SM8650" in out
    log = next((tmp_path / "outputs").rglob("lower.log"))
    assert log.read_text() == "the compiler's last words"
    killed.clear()
    code, _, err = command(*ARGUMENTS)
    assert code == 0, err
    assert len(manifest.read(tmp_path / "bundles" / "made").programs) == 3


def test_a_program_that_fails_before_there_is_a_bundle(command, killed, tmp_path):
    killed.append("SM8750")
    code, out, err = command(*ARGUMENTS, "until=lower")
    assert code == 2
    assert err.splitlines()[-1].endswith("; the others were made")
    assert out.count("lower is in") == 2
    assert not (tmp_path / "bundles").exists()


def test_where_no_program_could_be_made_there_is_no_bundle(command, killed, tmp_path):
    killed += ["SM8750", "SM8650"]
    code, _, err = command("backend=qnn", "recipe=16a4w", "device=[galaxy_s25,oneplus_12]")
    assert code == 2
    assert err.splitlines()[-1].startswith("et-pipeline: qnn SM8750: stage lower")
    assert not (tmp_path / "bundles").exists()
