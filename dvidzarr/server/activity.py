"""What the server did lately: request counts for `load`, and how long pings of each user took."""

import time
from dataclasses import dataclass

from dvidzarr.core.ids import now
from dvidzarr.server.board import ACTIVE, READS, READS_BEFORE, SECOND, WRITES, WRITES_BEFORE, Board

_USERS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Ping:
    """Latencies of one user in whole milliseconds."""

    user: str = ""
    last_ping: str = ""
    last: int = 0
    least: int = 0
    most: int = 0

    def json(self) -> dict[str, object]:
        """Return the record as DVID shows it."""
        return {
            "User": self.user,
            "LastPing": self.last_ping,
            "LastLatency": self.last,
            "MinLatency": self.least,
            "MaxLatency": self.most,
        }


class Activity:
    """Counters of one server; touched by its event loop only. The numbers lie on the board that its processes share."""

    def __init__(self, board: Board | None = None, number: int = 0) -> None:
        self.started = time.monotonic()
        self._pings: dict[str, Ping] = {}
        self._board = board or Board()
        self._row = self._board.row(number)
        self.forwarded = 0
        """Requests running that other processes took, and count."""

    @property
    def running(self) -> int:
        """Requests running in this process, those that others took included."""
        return self._row[ACTIVE] + self.forwarded

    @property
    def active(self) -> int:
        """Requests running that this process took."""
        return self._row[ACTIVE]

    @property
    def active_everywhere(self) -> int:
        """Requests running in all processes of the server."""
        return sum(row[ACTIVE] for row in self._board.rows())

    def begin(self, method: str) -> None:
        """Count a request that starts."""
        row = self._row
        row[ACTIVE] += 1
        second = int(time.monotonic())
        if second != row[SECOND]:
            self._turn(second)
        if method in ("GET", "HEAD"):
            row[READS] += 1
        elif method in ("POST", "PUT", "DELETE"):
            row[WRITES] += 1

    def end(self) -> None:
        """Count a request that is over."""
        self._row[ACTIVE] -= 1

    def rates(self) -> tuple[int, int]:
        """Return (reads, writes) of the last whole second, in all processes of the server."""
        second = int(time.monotonic())  # one clock for all processes of a machine
        reads = writes = 0
        for row in self._board.rows():
            if row[SECOND] == second:
                reads, writes = reads + row[READS_BEFORE], writes + row[WRITES_BEFORE]
            elif row[SECOND] == second - 1:
                reads, writes = reads + row[READS], writes + row[WRITES]
        return reads, writes

    def ping(self, user: str, milliseconds: int) -> None:
        """Note how long a ping of a user took."""
        before = self._pings.pop(user, None)
        least = milliseconds if before is None else min(before.least, milliseconds)
        most = milliseconds if before is None else max(before.most, milliseconds)
        self._pings[user] = Ping(user, now(), milliseconds, least, most)
        if len(self._pings) > _USERS_KEPT:
            del self._pings[next(iter(self._pings))]

    def pings(self) -> dict[str, dict[str, object]]:
        """Return all records by user, sorted."""
        return {user: self._pings[user].json() for user in sorted(self._pings)}

    def pings_of(self, user: str) -> dict[str, object]:
        """Return the record of one user; empty texts and zeros if there is none."""
        return self._pings.get(user, Ping()).json()

    def _turn(self, second: int) -> None:
        row = self._row
        following = second == row[SECOND] + 1
        row[READS_BEFORE], row[WRITES_BEFORE] = (row[READS], row[WRITES]) if following else (0, 0)
        row[READS] = row[WRITES] = 0
        row[SECOND] = second
