"""How far a copy is: a bar on a terminal, a line now and then elsewhere; always on stderr."""

import sys
import threading
import time
from types import TracebackType

import click

SECONDS_PER_LINE = 10.0
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class Meter:
    """Counts bytes from several threads, and shows bar, amount, rate and time left.

    Parameters
    ----------
    name
        What is going on, such as "ingest".
    total
        Bytes when all is done.
    before
        Bytes that an earlier run did: shown as done, left out of the rate.
    """

    def __init__(self, name: str, total: int, before: int = 0) -> None:
        self._name, self._total, self._before = name, total, before
        self._done = before
        self._lock = threading.Lock()
        self._began = self._said = time.monotonic()
        self._bar = _Bar(name, total, before) if sys.stderr.isatty() else None

    def advance(self, count: int) -> None:
        """Count bytes that are done."""
        with self._lock:
            self._done += count
            if self._bar:
                self._bar.show(self._done)
            elif time.monotonic() - self._said >= SECONDS_PER_LINE:
                self._said = time.monotonic()
                click.echo(self._line(), err=True)

    def summary(self) -> str:
        """Return what this run did: amount, time, rate."""
        count, seconds = self._done - self._before, max(time.monotonic() - self._began, 1e-3)
        return f"{amount(count)} in {clock(seconds)} ({amount(count / seconds)}/s)"

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def _line(self) -> str:
        rate = (self._done - self._before) / max(time.monotonic() - self._began, 1e-3)
        left = clock((self._total - self._done) / rate) if rate else "?"
        share = 100 * self._done // max(self._total, 1)
        amounts = f"{amount(self._done)} of {amount(self._total)}"
        return f"{self._name}: {share} %, {amounts}, {amount(rate)}/s, {left} left"


class _Bar:
    """A rich progress bar; the speed is of this run."""

    def __init__(self, name: str, total: int, before: int) -> None:
        from rich import progress  # noqa: PLC0415 - only for a terminal
        from rich.console import Console  # noqa: PLC0415

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(name, total=total, completed=before)
        self._progress.start()

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def stop(self) -> None:
        self._progress.stop()


def amount(count: float) -> str:
    """Return bytes as text, in decimal units."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"


def clock(seconds: float) -> str:
    """Return a duration as text: seconds, or h:mm:ss."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
