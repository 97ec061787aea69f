"""Starting: until the first answer of an empty store, and memory when nothing happens."""

import time
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from benchmarks.process import Client, resident_mb, running, serve, start, url_of
from benchmarks.timing import Case, Figure, single
from benchmarks.volumes import Plan

if TYPE_CHECKING:
    import subprocess

_STARTS = 5
_IDLE_S = 1.0


class Starter:
    """Starts a server on a new store each time; the one before is ended outside the timed part."""

    def __init__(self, plan: Plan) -> None:
        self._folder, self._numbers = plan.folder, count()
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start and wait for the first answer."""
        self._process = start(*serve(self._folder / f"empty{next(self._numbers)}"))
        client = Client(url_of(self._process))
        client.get("/api/server/info")
        client.close()

    def end(self) -> None:
        """End the server, if one runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None


def cases(plan: Plan) -> Iterator[list[Case] | Figure]:
    """Yield the cases and the figure of memory."""
    starter = Starter(plan)
    try:
        yield [
            Case(
                "start to first answer, empty",
                "dvidzarr serve",
                starter.begin,
                prepare=starter.end,
                calls=_STARTS,
            )
        ]
    finally:
        starter.end()
    with running(*serve(plan.folder / "idle")) as server:
        client = Client(server.url)
        client.get("/api/server/info")
        time.sleep(_IDLE_S)
        yield single("resident memory, idle and empty", "dvidzarr serve", resident_mb(server.pid), "MB")
        client.close()
