"""`et-pipeline`: Hydra composes, `settings` validates, `pipeline` runs, `report` shows.

Exit codes: 0 a bundle that passed its gate (or the stage asked for), 1 a fault of ours, 2 a mistake in the input,
3 a bundle that failed its gate.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from et_pipeline import CONF
from et_pipeline.backends import get_backend
from et_pipeline.errors import EXIT_GATE, EXIT_USER, StageError, UserError
from et_pipeline.plan import Survey, survey
from et_pipeline.report import plots, progress, tables
from et_pipeline.settings import Device, Recipe, Settings, StageName, closest, first_line, load_settings, setting_names

if TYPE_CHECKING:
    from et_pipeline.pipeline import Result

log = logging.getLogger("et_pipeline")

ALL_DEVICES = "all"
_SEVERAL = ("backend", "recipe", "device")  # groups of which one bundle may hold several
_GROUPS = (*_SEVERAL, "model", "task", "experiment")
Option = TypeVar("Option", bound=BaseModel)

_QUOTING = "a value with other characters than letters, digits, / . - _ : stands in quotes, as in 'key=\"a value\"'"
_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Console entry of `et-pipeline`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on, and we decide what each is worth
    done: list[Result | Survey] = []
    mistakes: list[str] = []
    formats: set[str] = set()

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> None:
        outputs = Path(HydraConfig.get().runtime.output_dir)
        try:
            programs = _programs(composed)
            for settings in programs:
                _check(settings)
                formats.add(settings.format)
            if programs[0].mode == "plan":
                done.extend(map(_plan, programs))
                return
            done.append(_run(programs, outputs))
        except (UserError, OSError, InterpolationResolutionError) as error:
            sentence = _disk_sentence(error) if isinstance(error, OSError) else str(error)
            if isinstance(error, InterpolationResolutionError):
                sentence = f"{first_line(error).rstrip('.')}; write \\${{ where a value has ${{"
            if not isinstance(error, StageError):  # whose log tells more
                _forget(outputs)
            mistakes.append(sentence)  # raised here, it would stop a sweep, and Hydra would add lines of its own

    code = guarded(job)
    if done and formats == {"json"}:
        documents = [tables.as_json(each) for each in done]
        sys.stdout.write(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n")
    elif done and log.isEnabledFor(logging.INFO):
        tables.show(done)
    results = [each for each in done if not isinstance(each, Survey)]
    gates = [gate for each in results if each.manifest is not None for gate in each.manifest.gates]
    failed = [check for gate in gates for check in gate.checks if not check.passed]
    for each in results:
        rest = "the bundle has the others" if each.bundle else "the others were made"
        mistakes += [f"{failure}; {rest}" for failure in each.failures]
    if failed:
        sentence = tables.check_sentence(failed[0])
        sys.stderr.write(f"et-pipeline: the gate failed: {sentence}; the bundle is marked as failed\n")
    for mistake in mistakes:
        sys.stderr.write(f"et-pipeline: {mistake}\n")
    sys.exit(code or (EXIT_USER if mistakes else EXIT_GATE if failed else 0))


def _programs(composed: DictConfig) -> list[Settings]:
    """The settings of each program of the bundle; several, where backends and devices are given as lists.

    Each backend takes the first recipe that it supports. One that compiles for a chip makes a program for each NPU of
    the devices; devices with other chips run the others' programs. A plan looks at every backend and device.

    Raises:
        UserError: a group that belongs to the bundle as a whole is given as a list, or a device has no program.
    """
    parsed = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    chosen = {each.key_or_group: each.value() for each in parsed}
    lists = {group: value for group, value in chosen.items() if group in _GROUPS and isinstance(value, list)}
    if not lists:
        return [load_settings(composed)]
    for group, options in lists.items():
        if group not in _SEVERAL:
            raise UserError(f"{group}={_listed(options)} holds several values; add -m to run each of them")
        if not options or len(set(options)) < len(options):
            raise UserError(f"{group}={_listed(options)} must hold different names, and at least one")
    others = [each.input_line or "" for each in parsed if each.key_or_group not in lists]

    def settings(**names: str) -> Settings:
        options = [f"{group}={name}" for group, name in names.items()]
        return load_settings(hydra.compose(HydraConfig.get().job.config_name, [*others, *options]))

    devices = [{"device": device} for device in lists.get("device", ())] or [{}]
    recipes = [{"recipe": recipe} for recipe in lists.get("recipe", ())] or [{}]
    found: list[Settings] = []
    for name in lists.get("backend", ()) or [None]:
        backend = {} if name is None else {"backend": name}
        tries = [settings(**backend, **devices[0], **recipe) for recipe in recipes]
        kind = get_backend(tries[0].backend.name)
        fits = [kind.supports(each.recipe.quantization).ok for each in tries]
        recipe = recipes[fits.index(True) if True in fits else 0]  # none: the first one's reason will be told
        if tries[0].mode == "plan" or tries[0].backend.soc:
            made = [settings(**backend, **device, **recipe) for device in devices]
            found += made if tries[0].mode == "plan" else _by_npu(made)
        else:
            found.append(settings(**backend, **devices[0], **recipe))
    if len({each.name for each in found}) > 1:  # nobody named the bundle, so it is called after all that is in it
        parts = dict.fromkeys(f"{each.recipe.name}-{each.backend.name}" for each in found)
        name = "-".join([found[0].model.name, *parts])
        found = [each.model_copy(update={"name": name}) for each in found]
    return found


def _listed(options: list[str]) -> str:
    return f"[{','.join(map(str, options))}]"


def _by_npu(programs: list[Settings]) -> list[Settings]:
    """One program per NPU, for all chips that have it; devices without one are left to other backends."""
    from et_pipeline.backends.qnn import chips

    known = [each for each in programs if each.backend.soc in chips()] or programs
    first: dict[object, Settings] = {}
    for each in known:
        soc = each.backend.soc or ""
        npu = chips().get(soc, soc)
        kept = first.setdefault(npu, each)
        if soc not in kept.backend.socs:
            backend = kept.backend.model_copy(update={"also": (*kept.backend.also, soc)})
            first[npu] = kept.model_copy(update={"backend": backend})
    return list(first.values())


def _run(programs: list[Settings], outputs: Path) -> Result:
    settings = programs[0]
    if settings.device.name == ALL_DEVICES:
        raise UserError(f"device={ALL_DEVICES} is for mode=plan; choose one phone, or add mode=plan")
    if settings.plot is not None:
        raise UserError(f"plot={settings.plot} is for mode=plan; leave it out, or add mode=plan")
    from et_pipeline.pipeline import run

    face = progress.face(quiet=settings.format == "json" or not log.isEnabledFor(logging.INFO))
    try:
        return run(programs, face, outputs)
    finally:
        face.close()


def _check(settings: Settings) -> None:
    """Refuse what the backend cannot do. A plan is quick because it does not import the stages, unless for this."""
    if not get_backend(settings.backend.name).supports(settings.recipe.quantization).ok or settings.mode == "run":
        from et_pipeline.pipeline import check

        check(settings)


def _plan(settings: Settings) -> Survey:
    if settings.plot is not None and settings.plot.suffix != ".svg":
        raise UserError(f"plot={settings.plot} is not a name ending in .svg, the one format that is drawn")
    if settings.backend.name != "xnnpack":
        raise UserError(f"mode=plan forecasts backend=xnnpack, and backend={settings.backend.name} was chosen")
    every = settings.device.name == ALL_DEVICES
    recipes = {} if every else _options("recipe", Recipe)
    backend = get_backend(settings.backend.name)
    usable = {name: recipe for name, recipe in recipes.items() if backend.supports(recipe.quantization).ok}
    devices = _options("device", Device) if every else None
    result = survey(settings, usable, devices)
    if settings.plot is not None:
        settings.plot.parent.mkdir(parents=True, exist_ok=True)
        settings.plot.write_text(plots.survey_svg(result), encoding="utf-8")
    return result


def _options(group: str, kind: type[Option]) -> dict[str, Option]:
    """Every option of a group that stands for itself, from all folders in which Hydra looks.

    The files are read directly: composing each would take ten times as long as the plan.

    Raises:
        UserError: a file holds something else.
    """
    found: dict[str, Option] = {}
    for source in HydraConfig.get().runtime.config_sources:
        for path in sorted((Path(source.path) / group).glob("*.yaml")) if source.path else ():
            try:
                config = OmegaConf.load(path)
                if path.stem in found or "defaults" in config:
                    continue
                plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except (OmegaConfBaseException, YAMLError):  # made to be completed by others, or not asked for
                continue
            try:
                found[path.stem] = kind.model_validate_json(json.dumps(plain))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"]))
                raise UserError(f"{path} is not a {group}: {key or 'it'}: {first['msg'].lower()}") from error
    return found


def _forget(outputs: Path) -> None:
    """A run that a mistake ended leaves nothing behind: remove what Hydra and the stages wrote, then empty folders.

    `hydra.run.dir` may be any folder, the current one too: what the user has in it stays.
    """
    written = {outputs / f"{name}.log" for name in (*get_args(StageName), "random", "gguf")}
    for handler in logging.getLogger().handlers:
        handler.close()
        if isinstance(handler, logging.FileHandler):
            written.add(Path(handler.baseFilename))
    shutil.rmtree(outputs / ".hydra", ignore_errors=True)
    for path in written:
        path.unlink(missing_ok=True)
    here = Path.cwd().resolve()
    for folder in (outputs.resolve(), *list(outputs.resolve().parents)[:2]):
        if folder == here or folder in here.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # other runs are in it
            return


def guarded(job: Callable[[], None]) -> int:
    """Run, and turn a mistake in the input into one sentence. Our own faults pass, with their traceback."""
    try:
        job()
    except UserError as error:
        message = str(error)
    except HydraException as error:
        message = _unquoted(sys.argv[1:]) or _hydra_sentence(error)
    except OSError as error:
        message = _disk_sentence(error)
    except KeyboardInterrupt:
        sys.stderr.write("et-pipeline: interrupted; the same command continues after the last finished stage\n")
        return 130
    else:
        return 0
    sys.stderr.write(f"et-pipeline: {message}\n")
    return EXIT_USER


def _disk_sentence(error: OSError) -> str:
    if error.errno not in _CANNOT_WRITE:
        raise error
    return (
        f"cannot use {error.filename}: {error.strerror}; make room or rights there, or choose another paths.cache, "
        "paths.bundles or hydra.run.dir"
    )


def _unquoted(arguments: list[str]) -> str | None:
    """The first override whose value Hydra's grammar cannot read, and how to type it so that it can."""
    parser = OverridesParser.create()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or argument.startswith("-"):
            continue
        try:
            parser.parse_override(argument)
        except HydraException:
            for mark in ('"', "'"):
                inner = value.replace("${", "\\${").replace(mark, f"\\{mark}")
                quoted = f"{key}={mark}{inner}{mark}"
                try:
                    parsed = parser.parse_override(quoted).value()
                except HydraException:
                    continue
                if parsed is not None:
                    return f"{argument} cannot be read without quotes; type {shlex.quote(quoted)}"
            return f"{argument} cannot be read: {_QUOTING}"
    return None


def _hydra_sentence(error: HydraException) -> str:
    """What Hydra says in several lines about a command line or a config file, in one that tells what would work."""
    text = str(error)
    if match := re.search(r"Could not find '(.+)/(.+)'", text):
        group, option = match.groups()
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return f"{group}={option} does not exist{closest(option, options)}"
    if match := re.search(r"Could not load '(.+)/(.+)'", text):  # one of several
        group, option = match.groups()
        return (
            f"{group}={option} does not exist{closest(option, [path.stem for path in (CONF / group).glob('*.yaml')])}"
        )
    if match := re.search(r"Could not override '(.+)'", text):
        return f"{match[1]} is not a setting{closest(match[1], setting_names())}"
    if match := re.search(r"Ambiguous value for argument '(.+)'", text):
        return f"{match[1]} holds several values; add -m to run each of them, or quote it if the comma is in a name"
    return first_line(error).rstrip(".") + "; see et-pipeline --help"
