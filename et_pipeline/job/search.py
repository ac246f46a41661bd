"""`hydra/sweeper=optuna`: a search in several directions at once, which a kill does not end.

Hydra's own plug-in (hydra-optuna-sweeper 1.3) asks for an Optuna of 2021, whose storage fails with today's SQLAlchemy,
and begins n_trials further ones when it is run again. Ours takes today's Optuna and goes on: trials that ended count,
those that a kill cut short are asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from et_pipeline.errors import UserError
from et_pipeline.job.swept import searched
from et_pipeline.report import metrics
from et_pipeline.report import study as studies
from et_pipeline.report.jobs import Outcome
from et_pipeline.settings import Metric, load_sweep

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

DRAWN_BY_MODEL, DRAWN_BLINDLY = 50, 500  # to find something new
_SQLITE = "sqlite:///"

Launch = Callable[[list[list[str]], int], list[Outcome]]
"""Runs jobs, each of its overrides, whose numbers begin with that one."""


def search(config: DictConfig, launch: Launch) -> None:
    """Run trials until the study has as many as it is to have, and show its front.

    Args:
        config: of the sweep, with Hydra's own node.
        launch: of Hydra's launcher.

    Raises:
        UserError: Optuna or a driver is not installed, or the study is of something else.
    """
    if find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'et-pipeline[sweeps]'")
    chosen = config.hydra.sweeper
    _check(chosen)
    overrides = searched(config)
    space = {each.get_key_element(): distribution(each) for each in overrides if each.is_sweep_override()}
    if not space:
        raise UserError("hydra/sweeper=optuna has nothing to search; add for example recipe.group_size=32,64,128")
    fixed = [each.input_line or "" for each in overrides if not each.is_sweep_override()]
    names = load_sweep(config.sweep).metrics
    if len({*names}) < len(names):
        raise UserError(f"sweep.metrics=[{','.join(names)}] weighs one twice; name each once")
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")  # as Hydra's own sweeper
    with _alone(chosen.storage):
        study = opened(str(chosen.study_name), chosen.storage, names, space, config.seed)
        while (left := chosen.n_trials - finished(study)) > 0:
            trials = ask(study, space, min(chosen.n_jobs, left))
            if not trials:
                log.info("All that can be searched has been tried")
                break
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            for trial, outcome in zip(trials, launch(jobs, trials[0].number), strict=True):
                tell(study, trial, outcome, names)
        log.info("Study %s is in %s", study.study_name, _shown(chosen.storage))
        if config.format == "table":
            studies.show(study)


def _check(chosen: DictConfig) -> None:
    """Refuse what `hydra.sweeper` cannot be."""
    for key in ("n_trials", "n_jobs"):
        if type(chosen[key]) is not int or chosen[key] < 1:  # True is 1 as well
            raise UserError(f"hydra.sweeper.{key}={chosen[key]} is not a whole number of 1 or more")
    for key in ("study_name", "storage"):
        if chosen[key] in (None, "") or not isinstance(chosen[key], str | int):
            raise UserError(f"hydra.sweeper.{key}={_text(chosen[key])} is not a text; give one, or leave it out")
    if ".." in Path(str(chosen.study_name)).parts:  # it is a folder of studies/
        raise UserError(f"hydra.sweeper.study_name={chosen.study_name} leads out of studies/; take a name without ..")


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def distribution(override: Override) -> BaseDistribution:
    """What values a key may have, in Optuna's words.

    Raises:
        UserError: there can be no such values.
    """
    try:
        return _distribution(override)
    except ValueError as error:
        why = str(error).rstrip(".")
        raise UserError(f"{override.input_line} cannot be searched: {why}; write for example interval(1,5)") from error


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        log_scale = "log" in sweep.tags
        if "int" in sweep.tags or {type(sweep.start), type(sweep.end)} == {int}:  # int(interval(..)) makes them so
            return IntDistribution(int(sweep.start), int(sweep.end), log=log_scale)
        return FloatDistribution(float(sweep.start), float(sweep.end), log=log_scale)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        kind = IntDistribution if all(isinstance(each, int) for each in values) else FloatDistribution
        return kind(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def opened(
    name: str, storage: str, names: Sequence[Metric], space: Mapping[str, BaseDistribution], seed: int
) -> optuna.Study:
    """A study, made if there is none; trials that a kill cut short wait to be asked again.

    Args:
        name: of the study.
        storage: where it is kept, as a URL.
        names: what it weighs.
        space: what it searches.
        seed: of what it draws.

    Raises:
        UserError: the storage cannot be used, or its study weighs or searches something else.
    """
    import optuna
    from optuna.distributions import check_distribution_compatibility
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [metrics.METRICS[each].direction for each in names]
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    except (ImportError, SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"hydra.sweeper.storage={_shown(storage)} cannot be used: {reason}") from error
    another = "choose another hydra.sweeper.study_name"
    if not studies.metric_names(study):
        studies.name_metrics(study, names)
    elif studies.metric_names(study) != list(names):
        were = ",".join(studies.metric_names(study))
        raise UserError(f"study {name} weighs [{were}], and sweep.metrics=[{','.join(names)}]; {another}")
    for trial in study.get_trials(deepcopy=False):
        for key, before in trial.distributions.items():
            try:
                check_distribution_compatibility(before, space[key])
            except (KeyError, ValueError) as error:
                raise UserError(f"study {name} has searched {key} in other values ({before}); {another}") from error
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    # What a study has drawn already is not drawn again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def ask(study: optuna.Study, space: Mapping[str, BaseDistribution], count: int) -> list[optuna.Trial]:
    """Trials to run, none of which was tried; fewer where nothing else is left.

    Optuna draws what it has drawn before, most of all where that failed, which it does not learn from. So it draws from
    a copy of the study until something is new.
    """
    import optuna
    from optuna.trial import TrialState

    found: list[optuna.Trial] = []
    for _ in range(count):
        trials = study.get_trials(deepcopy=False)
        if not any(each.state is TrialState.WAITING for each in trials):  # which are asked first
            tried = [each.params for each in trials]
            draft = optuna.create_study(directions=study.directions, sampler=study.sampler)
            draft.add_trials([each for each in trials if each.state is not TrialState.RUNNING])
            for number in range(DRAWN_BY_MODEL + DRAWN_BLINDLY):
                if number == DRAWN_BY_MODEL:
                    draft.sampler = optuna.samplers.RandomSampler(seed=len(trials))
                params = draft.ask(space).params
                if params not in tried:
                    study.enqueue_trial(params)
                    break
            else:
                return found
        found.append(study.ask(space))
    return found


def finished(study: optuna.Study) -> int:
    """How many trials have ended, well or by a failure of their job; not those that a kill cut short."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return sum(trial.state is TrialState.COMPLETE or studies.WHY in trial.user_attrs for trial in ended)


def tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome, names: Sequence[Metric]) -> None:
    """Let a study know what a trial's job came to. A bundle that failed its gate is not of the front."""
    from optuna.trial import TrialState

    manifest, why = outcome.manifest, outcome.mistake or outcome.crash or "it made no bundle; leave until out"
    if manifest is not None:
        try:
            values = metrics.of(manifest, names)
        except UserError as error:
            why = str(error)
        else:
            trial.set_user_attr(studies.BUNDLE, str(outcome.results[0].bundle))
            trial.set_constraint("gate", 0.0 if all(gate.passed for gate in manifest.gates) else 1.0)
            study.tell(trial, values)
            return
    log.warning("Trial %d failed: %s", trial.number, why)
    trial.set_user_attr(studies.WHY, why)
    study.tell(trial, state=TrialState.FAIL)


def _shown(storage: str) -> str:
    """A URL without the user and a password."""
    scheme, mark, place = storage.partition("://")
    return scheme + mark + place.rpartition("@")[2]


@contextmanager
def _alone(storage: str) -> Iterator[None]:
    """Hold a study in a file, of which two sweeps would take each other's running trials for cut short."""
    if not storage.startswith(_SQLITE):
        yield
        return
    file = Path(storage.removeprefix(_SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another sweep works on {file}; wait for it, or choose another hydra.sweeper.study_name"
        ) from error
    try:
        yield
    finally:
        lock.release()
