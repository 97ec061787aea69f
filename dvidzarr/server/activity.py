"""What the server did lately: request counts for `load`, and how long pings of each user took."""

import time
from dataclasses import dataclass

from dvidzarr.core.ids import now

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
    """Counters of one server; touched by its event loop only."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.active = 0
        self._pings: dict[str, Ping] = {}
        self._second = 0
        self._reads = (0, 0)
        self._writes = (0, 0)

    def begin(self, method: str) -> None:
        """Count a request that starts."""
        self.active += 1
        self._turn()
        if method in ("GET", "HEAD"):
            self._reads = (self._reads[0], self._reads[1] + 1)
        elif method in ("POST", "PUT", "DELETE"):
            self._writes = (self._writes[0], self._writes[1] + 1)

    def end(self) -> None:
        """Count a request that is over."""
        self.active -= 1

    def rates(self) -> tuple[int, int]:
        """Return (reads, writes) of the last whole second."""
        self._turn()
        return self._reads[0], self._writes[0]

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

    def _turn(self) -> None:
        second = int(time.monotonic())
        if second == self._second:
            return
        following = second == self._second + 1
        self._reads = (self._reads[1] if following else 0, 0)
        self._writes = (self._writes[1] if following else 0, 0)
        self._second = second
