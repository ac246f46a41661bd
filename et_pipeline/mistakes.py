"""A mistake in the input becomes one sentence on standard error, and an exit code."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Callable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from et_pipeline import CONF
from et_pipeline.errors import EXIT_USER, UserError
from et_pipeline.settings import closest, first_line, setting_names

_QUOTING = "a value with other characters than letters, digits, / . - _ : stands in quotes, as in 'key=\"a value\"'"
_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)


def guarded(job: Callable[[], None]) -> int:
    """Run, and turn a mistake in the input into one sentence. Our own faults pass, with their traceback."""
    try:
        job()
    except UserError as error:
        message = str(error)
    except HydraException as error:
        message = _unquoted(sys.argv[1:]) or _hydra_sentence(error)
    except OSError as error:
        message = disk_sentence(error)
    except KeyboardInterrupt:
        sys.stderr.write("et-pipeline: interrupted; the same command continues after the last finished stage\n")
        return 130
    else:
        return 0
    sys.stderr.write(f"et-pipeline: {message}\n")
    return EXIT_USER


def disk_sentence(error: OSError) -> str:
    """What stands in the way on the disk; raises what is no mistake of the user."""
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
