"""The command line itself; runs that need a model are in test_bad_inputs.py and test_end_to_end.py."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from et_pipeline import CONF, __version__, cli, job
from et_pipeline.pipeline import Result


def test_help_tells_a_newcomer_what_to_type(command):
    code, out, _ = command("--help")
    assert code == 0
    for word in ("Usage:", "recipe: 16a4w", "device:", "mode=plan", "report FOLDER", "Exit codes", "--config-dir"):
        assert word in out


def test_cfg_job_resolve_shows_the_whole_configuration(command):
    code, out, _ = command("--cfg", "job", "--resolve", "recipe=int8_weight_only")
    assert code == 0
    assert "name: tiny_assistant-int8_weight_only-xnnpack" in out


def test_config_dir_adds_options(command, tmp_path):
    mine = tmp_path / "mine" / "recipe"
    mine.mkdir(parents=True)
    shutil.copy(CONF / "recipe" / "8da4w.yaml", mine / "wide.yaml")
    code, out, _ = command("--config-dir", str(tmp_path / "mine"), "recipe=wide", "--cfg", "job")
    assert code == 0
    assert "8da4w-g" in out


def test_plan_answers_as_json(command):
    code, out, _ = command("mode=plan", "format=json", "device=galaxy_s22")
    assert code == 0
    plan = json.loads(out)
    assert plan["device"] == "Samsung Galaxy S22"
    assert plan["fits"] is True
    assert plan["pte_bytes"] < plan["fp16_bytes"]
    sizes = [each["pte_bytes"] for each in plan["recipes"]]
    assert plan["pte_bytes"] in sizes
    assert sizes == sorted(sizes)


def test_plan_shows_every_recipe_on_the_device(command):
    code, out, _ = command("mode=plan", "model=llama2_7b", "device=oneplus_12", "recipe.group_size=64")
    assert code == 0
    for word in ("6,738,415,616", "8da4w-g64", "8da4w-g32", "int8_weight_only", "over app limit", "forecasts"):
        assert word in out


def test_plan_of_all_devices_is_one_table(command):
    code, out, _ = command("mode=plan", "model=llama3_2_3b", "device=all")
    assert code == 0
    assert out.count("Plan:") == 1
    for word in ("Samsung Galaxy S22", "OnePlus 12", "Google Pixel 10", "4 GB phone", "over app limit", "yes"):
        assert word in out


def test_plan_of_all_devices_holds_those_of_the_user(command, tmp_path):
    mine = tmp_path / "mine" / "device"
    mine.mkdir(parents=True)
    text = (CONF / "device" / "oneplus_12.yaml").read_text()
    (mine / "mine.yaml").write_text(text.replace("name: OnePlus 12", "name: My phone"))
    code, out, _ = command("--config-dir", str(tmp_path / "mine"), "mode=plan", "device=all", "format=json")
    assert code == 0
    names = [each["device"] for each in json.loads(out)["devices"]]
    assert "My phone" in names
    assert "all" not in names
    assert len(names) == len(set(names)) == len(list((CONF / "device").glob("*.yaml")))


def test_plan_of_all_devices_names_a_broken_file_of_the_user(command, tmp_path):
    mine = tmp_path / "mine" / "device"
    mine.mkdir(parents=True)
    (mine / "half.yaml").write_text("name: half\nsoc: x\n")
    (mine / "open.yaml").write_text("name: ???\n")
    code, out, err = command("--config-dir", str(tmp_path / "mine"), "mode=plan", "device=all")
    assert (code, out) == (2, "")
    assert err.strip().endswith("half.yaml is not a device: ram_gb: field required")


def test_plan_draws_a_picture(command, tmp_path):
    code, _, _ = command("mode=plan", "plot=pictures/plan.svg")
    assert code == 0
    assert (tmp_path / "pictures" / "plan.svg").read_text().startswith("<svg")


def test_plan_of_a_sweep_is_one_table(command):
    code, out, _ = command("-m", "mode=plan", "recipe=8da4w,fp32")
    assert code == 0
    assert out.count("Plan:") == 1
    assert "8da4w-g32" in out
    assert "fp32" in out


def test_quiet_prints_nothing(command):
    code, out, err = command("mode=plan", "hydra.job_logging.root.level=WARNING")
    assert (code, out, err) == (0, "", "")


@pytest.mark.parametrize("model", ["llama2_7b", "tiny_assistant"])
def test_plan_needs_neither_torch_nor_numpy(tmp_path, model):
    program = (
        f"import sys; from et_pipeline import cli; sys.argv = ['et-pipeline', 'mode=plan', 'model={model}']\n"
        "try: cli.main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'torch', 'transformers', 'numpy', 'et_pipeline.pipeline'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_the_pipeline_is_imported_without_torch_and_numpy():
    program = "import sys, et_pipeline.pipeline; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_sweep_goes_on_after_a_mistake_and_reports_it(command):
    code, out, err = command("-m", "mode=plan", "recipe.group_size=48,32")
    assert code == 2
    assert "8da4w-g32" in out
    assert "recipe.group_size=48" in err


def test_a_sweep_of_mistakes_alone_has_no_document(command):
    code, out, err = command("-m", "format=json", "recipe.group_size=48,40")
    assert (code, out) == (2, "")
    assert [line.split()[2] for line in err.splitlines() if "does not run" in line] == ["with", "with"]


def test_a_fault_of_ours_in_one_job_does_not_end_a_sweep(command, monkeypatch):
    def run(programs, *_):
        if programs[0].recipe.group_size == 64:
            raise RuntimeError("broken\nin pieces")
        return Result(failures=["qnn: not today"])

    monkeypatch.setattr(job, "_run", run)
    code, out, err = command("-m", "recipe.group_size=32,64,96")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("#")] == [
        [f"#{number}", f"recipe.group_size={size}"] for number, size in enumerate((32, 64, 96))
    ]
    assert "failed: RuntimeError: broken" in out
    assert "Traceback" in err
    assert "job 1 failed by a fault of ours: RuntimeError: broken\n" in err
    assert "qnn: not today; the others were made" in err


def test_a_fault_of_ours_alone_keeps_its_traceback(command, monkeypatch):
    def run(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(job, "_run", run)
    with pytest.raises(RuntimeError, match="broken"):
        command()


def test_jobs_of_a_sweep_write_bundles_of_different_names(command, monkeypatch):
    names = []
    monkeypatch.setattr(job, "_run", lambda programs, *_: names.append(programs[0].name) or Result())
    code, _, _ = command("-m", "recipe.group_size=32,64", "model.max_context=256,512", "verify.sequences=4")
    assert code == 0
    assert names == [
        f"tiny_assistant-8da4w-g{size}-xnnpack-max_context{context}" for size in (32, 64) for context in (256, 512)
    ]


def test_a_name_that_tells_the_jobs_apart_stays(command, monkeypatch):
    names = []
    monkeypatch.setattr(job, "_run", lambda programs, *_: names.append(programs[0].name) or Result())
    code, _, _ = command("-m", "name=mine-${seed}-${measure.rounds}", "seed=0,1", "measure.rounds=range(1,3)")
    assert code == 0
    assert names == ["mine-0-1", "mine-0-2", "mine-1-1", "mine-1-2"]


@pytest.mark.parametrize(
    "value",
    [
        "/x/é (1)",
        "/x/a(1).gguf",
        "/x/a#b",
        "/x/a{b}",
        "/x/a=b",
        "~nobody/x",
        "/x/🙂",
        "/x/it's",
        "/x/[a]",
        "/x/a;b",
        'a"b',
    ],
)
def test_a_value_that_needs_quotes_is_told_how_to_be_typed(command, value):
    code, out, err = command("mode=plan", f"model.source={value}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    if "cannot be read without quotes" not in err:  # Hydra takes it as it is
        assert f"model.source={value} is neither a folder nor" in err
        return
    typed = shlex.split(err.split("; type ")[1])  # as a shell would
    assert len(typed) == 1
    code, _, err = command("mode=plan", *typed)
    assert code == 2
    assert f"model.source={value} is neither a folder nor" in err or value in err
    assert "quotes" not in err


def test_an_interpolation_that_leads_nowhere_is_one_sentence(command):
    code, out, err = command("mode=plan", "model.source=/x/${nothing}")
    assert (code, out) == (2, "")
    assert "Interpolation key 'nothing' not found; write \\${ where a value has ${" in err


def test_options_of_a_pattern_are_told_apart(command, monkeypatch):
    names = []
    monkeypatch.setattr(job, "_run", lambda programs, *_: names.append(programs[0].name) or Result())
    code, _, err = command("-m", "recipe=glob(8da*w)", "measure.rounds=1,2")
    assert code == 0, err
    assert names == [
        f"tiny_assistant-{recipe}-xnnpack-rounds{count}" for recipe in ("8da4w-g32", "8da8w") for count in (1, 2)
    ]


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["et-pipeline", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"et-pipeline {__version__}\n"


@pytest.mark.parametrize("entry", ["main", "bundle_main"])
def test_who_gives_up_while_it_is_imported_gets_no_traceback(entry, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    monkeypatch.setattr(sys, "argv", ["et-pipeline"])
    with pytest.raises(SystemExit) as ended:
        getattr(cli, entry)()
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("at", "arguments", "words"),
    [
        ("et_pipeline.pipeline.run", [], "interrupted; the same command continues after the last finished stage"),
        ("et_pipeline.job.forecast", ["mode=plan"], "interrupted"),
        ("et_pipeline.doctor.examine", ["doctor"], "interrupted"),
        ("et_pipeline.cli.report.find", ["report"], "interrupted"),
    ],
)
def test_who_interrupts_is_promised_only_what_is_so(command, monkeypatch, at, arguments, words):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(at, interrupted)
    code, _, err = command(*arguments)
    assert (code, err.splitlines()[-1]) == (130, f"et-pipeline: {words}")
