"""How a run ends that is not our fault, and the exit codes.

Anything else that is raised is a bug of ours and keeps its traceback (exit code 1).
"""

EXIT_USER = 2
EXIT_GATE = 3


class UserError(Exception):
    """Something the user can mend: a key, a file, a combination. The message is one sentence that says how."""


class StageError(UserError):
    """A vendor's library, or a lack of memory, ended a stage, whose log has more to say and is kept."""


class GateError(Exception):
    """The bundle was built and measured, and its figures are below the recipe's thresholds."""
