"""A mistake in the input becomes one sentence on standard error, and an exit code."""

from __future__ import annotations

import errno
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import InterpolationResolutionError

from et_pipeline import CONF, plugins
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.job.swept import refuse_empty
from et_pipeline.settings import closest, first_line, setting_names

_QUOTING = "a value with other characters than letters, digits, / . - _ : stands in quotes, as in 'key=\"a value\"'"
_CANNOT_WRITE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
)

_COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}
_WAYS = {"-r", "--run", "-m", "--multirun", "-c", "--cfg", "-i", "--info"}
_ACTIONS, _SHELLS = ("install", "uninstall", "query"), ("bash", "fish", "zsh")

_SWEEPS = "pip install 'et-pipeline[sweeps]'"
_LAUNCHERS = {
    "joblib": _SWEEPS,
    "submitit_local": _SWEEPS,
    "submitit_slurm": _SWEEPS,
    "ray": "pip install ray, and pip install --no-deps hydra-ray-launcher",  # which asks for older libraries than ours
}


def guarded(job: Callable[[], None]) -> int:
    """Run, and turn a mistake in the input into one sentence. Our own faults pass, with their traceback."""
    try:
        with told(sys.argv[1:]):
            job()
    except UserError as error:
        sys.stderr.write(f"et-pipeline: {error}\n")
        return EXIT_USER
    except KeyboardInterrupt as interrupt:
        words = "; ".join(["interrupted", *getattr(interrupt, "__notes__", ())])
        sys.stderr.write(f"et-pipeline: {words}\n")
        return 130
    return 0


@contextmanager
def resumed() -> Iterator[None]:
    """Work of stages: who interrupts it is told what a second run does."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("the same command continues after the last finished stage")
        raise


def check_arguments(arguments: list[str]) -> None:
    """Refuse what Hydra ends on with a traceback, or without a word.

    Raises:
        UserError: completion for an unknown shell, or a sweep through nothing or by nobody.
    """
    if _COMPLETION & {*arguments}:
        asked = [each for each in arguments if each.partition("=")[0] in _ACTIONS]
        if len(asked) != 1 or asked[0].partition("=")[2] not in _SHELLS:
            given = " ".join(asked) or "none"
            raise UserError(f"-sc takes one of install=bash, install=fish and install=zsh, and has {given}")
        return
    ways = [each for each in arguments if each.partition("=")[0] in _WAYS]
    if len(ways) > 1:
        raise UserError(f"{' and '.join(ways)} cannot be said together; take one of them")
    if "hydra.launcher.n_jobs=0" in arguments:  # joblib's own words for it are a traceback
        raise UserError("hydra.launcher.n_jobs=0 runs nothing; give how many jobs run at once, or -1 for one per core")
    parser = OverridesParser.create()
    for argument in arguments:
        if "=range(" in argument:
            with suppress(HydraException):  # which is told of later
                refuse_empty(parser.parse_override(argument))


@contextmanager
def told(overrides: list[str]) -> Iterator[None]:
    """What Hydra or the disk says about a mistake in the input becomes a `UserError`; our own faults pass."""
    try:
        yield
    except HydraException as error:
        raise UserError(_unquoted(overrides) or _hydra_sentence(error)) from error
    except InterpolationResolutionError as error:
        raise UserError(f"{first_line(error).rstrip('.')}; write \\${{ where a value has ${{") from error
    except yaml.MarkedYAMLError as error:
        where = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}" if error.problem_mark else "a file"
        raise UserError(f"{where} is no YAML: {error.problem}") from error
    except UnicodeDecodeError as error:
        modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(name.startswith(("hydra.", "omegaconf.")) for name in modules[-2:]):  # the last is codecs
            raise
        raise UserError(f"a YAML file that Hydra reads is not in UTF-8: {error}") from error
    except OSError as error:
        # A folder that cannot be made although the one around it is there, as in /proc.
        makes_folder = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)][-1] == "mkdir"
        if error.errno not in _CANNOT_WRITE and not (error.errno == errno.ENOENT and makes_folder):
            raise
        raise UserError(
            f"cannot use {error.filename}: {error.strerror}; make room or rights there, or choose another paths.cache, "
            "paths.bundles or hydra.run.dir"
        ) from error


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
        if group == "hydra/launcher" and option in _LAUNCHERS:
            return f"{group}={option} is not installed: {_LAUNCHERS[option]}"
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return f"{group}={option} does not exist{closest(option, options)}"
    if match := re.search(r"Could not load '(.+)/(.+)'", text):  # one of several
        group, option = match.groups()
        folders = [folder / group for folder in (CONF, *plugins.folders())]
        options = [path.stem for folder in folders for path in folder.glob("*.yaml")]
        return f"{group}={option} does not exist{closest(option, options)}"
    if match := re.search(r"Could not override '(.+)'", text):
        return f"{match[1]} is not a setting{closest(match[1], setting_names())}"
    if (match := re.search(r"Error merging override (.+)", text)) and error.__cause__ is not None:
        return f"{match[1]} is not valid: {first_line(error.__cause__).rstrip('.')}"
    if match := re.search(r"Ambiguous value for argument '(.+)'", text):
        return f"{match[1]} holds several values; add -m to run each of them, or quote it if the comma is in a name"
    return first_line(error).rstrip(".") + "; see et-pipeline --help"
