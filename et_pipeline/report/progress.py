"""What a run shows while it works: bars on a terminal, a plain line per stage elsewhere, nothing if quiet."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from et_pipeline.worker import Tick


class Silent:
    """Shows nothing: for quiet runs and for tests."""

    def start(self, stage: str) -> Tick:
        """See `pipeline.Face`."""
        return lambda done, total, words="": None

    def wait(self, stage: str) -> None:
        """See `pipeline.Face`."""

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        """See `pipeline.Face`."""

    def close(self) -> None:
        """Take the bars off the terminal."""


class Lines(Silent):
    """One line per finished stage; with a label where other jobs write their lines too."""

    def __init__(self, console: Console, label: str | None = None) -> None:
        self.console = console
        self.label = f"{label} " if label else ""

    def wait(self, stage: str) -> None:
        """Say that another run works on this stage."""
        self.console.print(
            f"{self.label}{stage:<9} waiting for another run that is building the same result", highlight=False
        )

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        """Say what the stage took, or that it was reused."""
        if reused:
            self.console.print(f"{self.label}{stage:<9} reused", highlight=False)
            return
        memory = f"  peak {cost['peak_rss_bytes'] / 2**20:.0f} MiB" if cost["peak_rss_bytes"] else ""
        took = f"{cost['wall_s']:6.1f} s  cpu {cost['cpu_s']:.1f} s{memory}"
        self.console.print(f"{self.label}{stage:<9} {took}", highlight=False)


class Bars(Lines):
    """A live bar for the stage that works, above it a line per finished one."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=True,
        )
        self._progress.start()
        self._task: TaskID | None = None

    def start(self, stage: str) -> Tick:
        """Show a bar, pulsing until the stage knows how much there is to do."""
        task = self._task = self._progress.add_task(stage, total=None, words="")
        return lambda done, total, words="": self._progress.update(task, completed=done, total=total, words=words)

    def finish(self, stage: str, cost: Mapping[str, float], reused: bool) -> None:
        """Turn the bar into a line."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        super().finish(stage, cost, reused)

    def close(self) -> None:
        """Take the bars off the terminal."""
        self._progress.stop()


def face(quiet: bool, label: str | None = None) -> Silent:
    """The right face for where standard error goes; `label` names a job beside which others run."""
    console = Console(stderr=True)
    if quiet:
        return Silent()
    return Bars(console) if console.is_terminal and label is None else Lines(console, label)
