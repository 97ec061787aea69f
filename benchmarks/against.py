"""Two commits side by side: the benchmarks of this checkout over the package of each, in turns."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from benchmarks import machine
from benchmarks.process import CHECKOUT
from benchmarks.report import Report, show
from benchmarks.timing import Timed, interleave
from benchmarks.volumes import Plan

_PARTS = ("dvidzarr", "api", "config")


class WorkerError(Exception):
    """A worker ended before its work."""


class Worker:
    """The process that measures one of the two."""

    def __init__(self, package: Path, plan: Plan, groups: Sequence[str], name: str) -> None:
        self.name = name
        folder = plan.folder / name
        folder.mkdir()
        path = os.pathsep.join(map(str, (package, CHECKOUT)))
        words = (str(folder), str(plan.size), ",".join(map(str, plan.depths)), ",".join(groups))
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "benchmarks.worker", *words),
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, value: object) -> Any:  # noqa: ANN401 - JSON
        """Send a line and return the answer."""
        if self._process.stdin is None:
            raise WorkerError(f"{self.name} has no stdin")
        self._process.stdin.write(orjson.dumps(value) + b"\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:  # noqa: ANN401 - JSON
        """Return the next line."""
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            raise WorkerError(f"{self.name} ended with status {self._process.wait()}")
        return orjson.loads(line)

    def end(self) -> None:
        """End the process."""
        self._process.communicate()  # closes its stdin, which ends it and its servers


@dataclass(frozen=True, slots=True)
class RemoteCase:
    """A case in a worker."""

    worker: Worker
    index: int
    name: str
    who: str
    nbytes: int
    calls: int

    def turn(self, calls: int) -> list[float]:
        """Let the worker call it."""
        seconds: list[float] = self.worker.ask([self.index, calls])
        return seconds


def run(plan: Plan, groups: Sequence[str], revision: str, report: Report, console: Console) -> None:
    """Measure this checkout and a revision in turns; ratios are this checkout's time over the revision's."""
    words = ("git", "-C", str(CHECKOUT), "rev-parse", "--short", f"{revision}^{{commit}}")
    short = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    package = plan.folder / "package"
    _extract(short, package)
    with (
        _worker(package, plan, groups, short) as old,
        _worker(CHECKOUT, plan, groups, "this checkout") as new,
    ):
        report.facts["against"] = short
        for group, cases in _pairs(old, new):
            figures = [figure for pair in cases for figure in interleave(pair, plan.seconds)]
            report.add(group, figures)
            show(console, f"{group}: {short} and {machine.commit()}", figures, short)


@contextmanager
def _worker(package: Path, plan: Plan, groups: Sequence[str], name: str) -> Iterator[Worker]:
    worker = Worker(package, plan, groups, name)
    try:
        yield worker
    finally:
        worker.end()


def _extract(commit: str, target: Path) -> None:
    """Write the package as it was into a folder; an archive, unlike a worktree, leaves no trace in the repository."""
    target.mkdir()
    words = ("git", "-C", str(CHECKOUT), "archive", commit, *_PARTS)
    archive = subprocess.run(words, capture_output=True, check=True).stdout
    subprocess.run(("tar", "-x", "-C", str(target)), input=archive, check=True)


def _pairs(old: Worker, new: Worker) -> Iterator[tuple[str, list[list[Timed]]]]:
    """Yield (group, the same cases of both, the older first) until one has no more."""
    heard = (old.hear(), new.hear())
    while None not in heard:
        sides = [
            [
                RemoteCase(worker, index, f"{name}, {who}", worker.name, nbytes, calls)
                for index, (name, who, nbytes, calls) in enumerate(said[1])
            ]
            for worker, said in zip((old, new), heard, strict=True)
        ]
        yield heard[0][0], [[case for case in pair if case is not None] for pair in zip_longest(*sides)]
        heard = (old.ask(None), new.ask(None))
