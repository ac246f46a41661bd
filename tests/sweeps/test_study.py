"""`hydra/sweeper=optuna`: a study is filled, goes on, and has a front. make test-sweeps installs Optuna."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_bundle import PTE, make_gate, make_manifest

from et_pipeline import job
from et_pipeline.errors import UserError
from et_pipeline.job import search
from et_pipeline.manifest import Agreement, Comparison, File, Quality, WaysOfFeeding
from et_pipeline.pipeline import Result
from et_pipeline.report import metrics, study
from et_pipeline.report.jobs import Outcome
from et_pipeline.settings import Metric

optuna = pytest.importorskip("optuna", reason="make test-sweeps installs it")

SPACE = {"recipe.group_size": optuna.distributions.CategoricalDistribution(["32", "64"])}
STORAGE = "sqlite:///studies/tiny_assistant/study.db"
SEARCH = ("-m", "hydra/sweeper=optuna", "sweep.metrics=[size,kl]", "recipe.group_size=32,64,96,128", "seed=range(0,4)")


def manifest(size, kl, passed=True):
    found = Agreement(positions=9, cosine=0.99, min_cosine=0.9, max_abs_diff=0.1, kl=kl, top1=0.9)
    ways = WaysOfFeeding(one_piece=found, chunked=found, token_by_token=found)
    files = {PTE: File(size=size, sha256="0" * 64), "tokenizer.json": File(size=1, sha256="0" * 64)}
    quality = Quality(agreement=Comparison(quantized=ways, original=ways), gate=make_gate(passed))
    made = make_manifest(files, quality=quality)
    what = made.what.model_copy(update={"settings": {"recipe": {"name": "8da4w"}}})
    return made.model_copy(update={"what": what})


def outcome(size, kl, passed=True):
    return Outcome(0, (), found=(Result(manifest=manifest(size, kl, passed), bundle=Path("there")),))


@pytest.fixture
def jobs(monkeypatch):
    """What jobs are asked for; the larger their groups the smaller the bundle and the larger the KL, and 96 fails."""
    asked = []

    def run(programs, *_):
        (settings,) = programs
        asked.append(settings)
        if settings.recipe.group_size == 96:
            raise UserError("groups of 96 are not to be had")
        made = manifest(1000 - settings.recipe.group_size, settings.recipe.group_size / 1000, settings.seed != 3)
        return Result(manifest=made, bundle=Path(settings.name))

    monkeypatch.setattr(job, "_run", run)
    return asked


def test_a_study_has_as_many_trials_as_are_asked_for_and_goes_on(command, jobs):
    code, out, _ = command(*SEARCH, "hydra.sweeper.n_trials=12")
    assert code in (0, 2, 3)  # as groups of 96 and seeds of 3 were drawn
    assert len(jobs) == 12
    found = optuna.load_study(study_name="tiny_assistant", storage=STORAGE)
    assert found.metric_names == ["size", "kl"]
    assert "The front of tiny_assistant" in out
    command(*SEARCH, "hydra.sweeper.n_trials=12")
    assert len(jobs) == 12
    command(*SEARCH, "hydra.sweeper.n_trials=14", "hydra.sweeper.n_jobs=2")
    assert len(jobs) == 14
    assert len(optuna.load_study(study_name="tiny_assistant", storage=STORAGE).trials) == 14


def test_nothing_is_tried_twice_and_a_search_ends_where_nothing_is_left(command, jobs):
    _, _, err = command(*SEARCH, "hydra.sweeper.n_trials=99", "hydra.sweeper.n_jobs=3")
    assert "All that can be searched has been tried" in err
    asked = [(each.recipe.group_size, each.seed) for each in jobs]
    assert sorted(asked) == [(size, seed) for size in (32, 64, 96, 128) for seed in range(4)]


def test_the_front_is_of_those_that_passed_and_no_other_beats(command, jobs):
    command(*SEARCH, "hydra.sweeper.n_trials=14")
    asked = {each.recipe.group_size for each in jobs if each.seed != 3} - {96}
    assert {each.seed for each in jobs} == {0, 1, 2, 3}
    points = study.front(optuna.load_study(study_name="tiny_assistant", storage=STORAGE))
    sizes = sorted(1000 - size for size in asked)
    assert sorted({each.values["size"] for each in points}) == sizes
    assert [each.values["size"] for each in points] == sorted(each.values["size"] for each in points)
    assert all(each.params["seed"] != 3 for each in points)
    assert len({tuple(each.params.items()) for each in points}) == len(points)
    assert all(str(each.bundle).endswith(f"-seed{each.params['seed']}") for each in points)


def test_a_trial_that_a_kill_cut_short_is_asked_again(command, jobs, monkeypatch, tmp_path):
    class Killed(BaseException):
        """Nothing of ours catches it."""

    def kill(*_):
        raise Killed

    command(*SEARCH, "hydra.sweeper.n_trials=3")
    with monkeypatch.context() as patch:
        patch.setattr(job, "_run", kill)
        with pytest.raises(Killed):
            command(*SEARCH, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2")
    (*_, first, second) = optuna.load_study(study_name="tiny_assistant", storage=STORAGE).trials
    assert first.state is second.state is optuna.trial.TrialState.RUNNING
    command(*SEARCH, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2")
    asked = [(str(each.recipe.group_size), each.seed) for each in jobs]
    wanted = [(each.params["recipe.group_size"], each.params["seed"]) for each in (first, second)]
    assert asked[3:5] == wanted
    assert len(jobs) == 6
    states = [each.state.name for each in optuna.load_study(study_name="tiny_assistant", storage=STORAGE).trials]
    assert "RUNNING" not in states
    assert "WAITING" not in states


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sweep.metrics=[size,decode]", r"weighs \[size,kl\], and sweep.metrics=\[size,decode\]; choose another"),
        ("recipe.group_size=32,256", "has searched recipe.group_size in other values"),
        ("recipe.group_size=32", "has searched recipe.group_size in other values"),
    ],
)
def test_a_study_of_something_else_is_not_gone_on_with(command, jobs, change, sentence):
    command(*SEARCH, "hydra.sweeper.n_trials=2")
    key = change.partition("=")[0]
    others = [each for each in SEARCH if not each.startswith(key)]
    code, _, err = command(*others, change, "hydra.sweeper.n_trials=3")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert re.search(sentence, err), err
    assert len(jobs) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (SEARCH[:3], "has nothing to search; add for example"),
        ((*SEARCH, "hydra.sweeper.n_trials=many"), "hydra.sweeper.n_trials=many is not a whole number"),
        ((*SEARCH, "hydra.sweeper.n_jobs=0"), "hydra.sweeper.n_jobs=0 is not a whole number of 1 or more"),
        ((*SEARCH, "hydra.sweeper.n_trials=true"), "hydra.sweeper.n_trials=True is not a whole number"),
        ((*SEARCH, "hydra.sweeper.storage=null"), "hydra.sweeper.storage=null is not a text"),
        ((*SEARCH, "hydra.sweeper.study_name=null"), "hydra.sweeper.study_name=null is not a text"),
        ((*SEARCH, "hydra.sweeper.study_name=../x"), "hydra.sweeper.study_name=../x leads out of studies/"),
        ((*SEARCH, "hydra.sweeper.params=x"), "hydra.sweeper.params=x is no mapping"),
        (
            (*SEARCH, "hydra.sweeper.params={verify.sequences:'range(5,1)'}"),
            "verify.sequences=range(5,1) has no values",
        ),
        ((*SEARCH, "adapt.size=interval(5,1)"), "adapt.size=interval(5,1) cannot be searched: `low <= high`"),
        ((*SEARCH, "adapt.size=tag(log,interval(0,1))"), "adapt.size=tag(log,interval(0,1)) cannot be searched"),
        ((*SEARCH, "sweep.metrics=[weight]"), 'sweep.metrics.0="weight" is not valid'),
        ((*SEARCH, "sweep.metrics=[size,size]"), r"sweep.metrics=[size,size] weighs one twice"),
        ((*SEARCH, "sweep.metrics=[]"), "sweep.metrics=[] is not valid"),
        ((*SEARCH, "hydra.sweeper.storage=nonsense://x"), "hydra.sweeper.storage=nonsense://x cannot be used"),
        (
            (*SEARCH, "hydra.sweeper.storage='nonsense://me:secret@host/x'"),
            "hydra.sweeper.storage=nonsense://host/x cannot be used",
        ),
        ((*SEARCH, "hydra.sweeper.storage=sqlite:////nowhere/x.db"), "cannot use /nowhere"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(command, jobs, arguments, sentence, monkeypatch):
    real = Path.mkdir

    def mkdir(self, *given, **more):  # root may write everywhere
        if str(self) == "/nowhere":
            raise PermissionError(13, "Permission denied", "/nowhere")
        real(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    code, out, err = command(*arguments)
    assert (code, out, jobs) == (2, "", [])
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert "secret" not in err


def test_one_study_is_one_sweeps_at_a_time(command, jobs, tmp_path):
    with search._alone(STORAGE):
        code, _, err = command(*SEARCH)
    assert (code, jobs) == (2, [])
    assert "another sweep works on studies/tiny_assistant/study.db" in err


def test_without_optuna_a_sentence_says_how_to_get_it(command, jobs, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    code, out, err = command(*SEARCH)
    assert (code, out) == (2, "")
    assert err.strip().endswith("hydra/sweeper=optuna needs Optuna: pip install 'et-pipeline[sweeps]'")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=b,c", optuna.distributions.CategoricalDistribution(["b", "c"])),
        ("a=1,null", optuna.distributions.CategoricalDistribution(["1", "null"])),
        ("a=range(4.75,6,0.25)", optuna.distributions.FloatDistribution(4.75, 5.75, step=0.25)),
        ("a=range(1,9,2)", optuna.distributions.IntDistribution(1, 7, step=2)),
        ("a=interval(0.5,1)", optuna.distributions.FloatDistribution(0.5, 1.0)),
        ("a=tag(log,interval(1e-4,1))", optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)),
        ("a=range(9,1,-2)", optuna.distributions.IntDistribution(3, 9, step=2)),
        ("a=int(interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
        ("a=tag(int,interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
    ],
)
def test_hydras_words_for_a_space_are_optunas(override, expected):
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert search.distribution(parsed) == expected


def test_a_figure_that_a_bundle_has_not_fails_its_trial():
    found = optuna.create_study(directions=["minimize", "maximize"])
    trial = found.ask(SPACE)
    search.tell(found, trial, outcome(1, 0.1), ["size", "perplexity"])
    (told,) = found.trials
    assert told.state is optuna.trial.TrialState.FAIL
    assert told.user_attrs[study.WHY].startswith("sweep.metrics has perplexity, which tiny has no figure of")
    assert search.finished(found) == 1


def test_one_metric_alone_has_a_best(command, jobs):
    command(*SEARCH, "sweep.metrics=[kl]", "hydra.sweeper.n_trials=5")
    points = study.front(optuna.load_study(study_name="tiny_assistant", storage=STORAGE))
    lowest = min(each.recipe.group_size for each in jobs if each.seed != 3)
    assert {each.values["kl"] for each in points} == {lowest / 1000}


def test_every_metric_has_a_direction():
    assert set(metrics.METRICS) == set(Metric.__args__)
    assert {each.direction for each in metrics.METRICS.values()} == {"minimize", "maximize"}


@pytest.fixture
def postgres(tmp_path):
    """A PostgreSQL of this test's own, on a socket; it does not run as root."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="make test-sweeps installs it")
    as_user = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.getuid() == 0 else []
    with_socket = f"-c listen_addresses= -c unix_socket_directories={tmp_path}"
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:  # pytest's are for their owner only
        parent.chmod(parent.stat().st_mode | 0o011)

    def do(*command):
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=tmp_path)

    do("initdb", "--auth=trust", "--username=et", f"--pgdata={tmp_path}/data")
    do("pg_ctl", f"--pgdata={tmp_path}/data", f"--log={tmp_path}/log", "-o", with_socket, "--wait", "start")
    try:
        yield f"postgresql://et@/postgres?host={tmp_path}"
    finally:
        do("pg_ctl", f"--pgdata={tmp_path}/data", "--mode=immediate", "--wait", "stop")


def test_a_study_in_postgresql(command, jobs, postgres):
    given = (*SEARCH, f"hydra.sweeper.storage='{postgres}'")
    _, _, err = command(*given, "hydra.sweeper.n_trials=4")
    assert len(jobs) == 4, err
    _, out, _ = command(*given, "hydra.sweeper.n_trials=6")
    assert len(jobs) == 6
    assert "The front of tiny_assistant" in out
    assert len(optuna.load_study(study_name="tiny_assistant", storage=postgres).trials) == 6
