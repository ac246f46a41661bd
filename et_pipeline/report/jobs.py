"""What the jobs of a sweep came to, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from et_pipeline.manifest import Manifest
from et_pipeline.report import metrics
from et_pipeline.report.words import check_sentence
from et_pipeline.settings import Metric
from et_pipeline.survey import Survey

if TYPE_CHECKING:
    from et_pipeline.pipeline import Result

SHOWN: tuple[Metric, ...] = ("size", "kl", "decode")


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        number: of the job in its sweep.
        overrides: what it was asked for.
        format: how its results are to be shown.
        found: what it made or forecast; empty where it failed.
        mistake: what ended it, if the user can mend that.
        crash: what ended it, if it was a fault of ours; its log has the traceback.
        seconds: what it took.
    """

    number: int
    overrides: tuple[str, ...]
    format: str = "table"
    found: tuple[Result | Survey, ...] = ()
    mistake: str | None = None
    crash: str | None = None
    seconds: float = 0

    @property
    def results(self) -> list[Result]:
        """What it made."""
        return [each for each in self.found if not isinstance(each, Survey)]

    @property
    def manifest(self) -> Manifest | None:
        """Of its bundle."""
        return next((each.manifest for each in self.results), None)

    @property
    def reused(self) -> bool:
        """Whether all that it was asked for was in the cache."""
        programs = [made for each in self.results for made in each.programs]
        return bool(programs) and all(len(made.reused) == len(made.entries) for made in programs)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row per job: what was asked for, what became of it, and some figures of its bundle."""
    made = Table(title="Jobs", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "asked for", *(metrics.METRICS[name].words for name in SHOWN), "took", "outcome"):
        made.add_column(column, justify="left" if column in ("asked for", "outcome") else "right")
    common = Counter(override for each in outcomes for override in set(each.overrides))
    for each in outcomes:
        asked = [override for override in each.overrides if common[override] < len(outcomes)]
        figures = [metrics.shown(name, each.manifest) if each.manifest else "" for name in SHOWN]
        made.add_row(f"#{each.number}", Text(" ".join(asked)), *figures, f"{each.seconds:.0f} s", _outcome(each))
    return made


def _outcome(outcome: Outcome) -> Text:
    ended = outcome.mistake or outcome.crash
    if ended is not None:
        return Text(f"failed: {ended}", style="red")
    gates = outcome.manifest.gates if outcome.manifest else []
    failed = [check for gate in gates for check in gate.checks if not check.passed]
    if failed:
        return Text(f"made, but its gate failed: {check_sentence(failed[0])}", style="red")
    return Text("reused" if outcome.reused else "made", style="green")
