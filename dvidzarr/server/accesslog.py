"""The access log: an entry for each request that was answered, or that its client gave up."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

ACCESS = logging.getLogger("dvidzarr.access")
MESSAGE = "request"
FACTS = "_facts"
"""Attribute of a record that holds an entry's `facts`."""


class Entry(NamedTuple):
    """One request.

    A tuple, of which thousands are kept until their lines are written: the memory of as many log records displaces what
    requests need, of which one for a key took 163 µs of the processor instead of 146 (measured).
    """

    created: float
    """Seconds since 1970."""
    request: str
    peer: str
    method: str
    path: str
    """Without the query, which may hold the admin token."""
    status: int
    seconds: float
    bytes_in: int
    bytes_out: int
    user: str
    app: str

    def facts(self) -> dict[str, Any]:
        """Return what a line says of it."""
        return {
            "request": self.request,
            "peer": self.peer,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(self.seconds * 1000, 2),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "user": self.user,
            "app": self.app,
        }


Sink = Callable[[Entry], object]
"""Takes entries, from the event loop: it must not wait."""

_sinks: list[Sink] = []
_logs: list[Sink] = []


@contextmanager
def entries_to(sink: Sink, *, is_log: bool = False) -> Iterator[None]:
    """Give a sink all entries of this process while the context lasts.

    With `is_log` the entries no longer go to `logging`.
    """
    places = (_sinks, _logs) if is_log else (_sinks,)
    for place in places:
        place.append(sink)
    try:
        yield
    finally:
        for place in places:
            place.remove(sink)


def note(entry: Entry) -> None:
    """Give an entry to the sinks; where none of them is the log, as in notebooks, to Python's logging too."""
    for sink in _sinks:
        sink(entry)
    if not _logs and ACCESS.isEnabledFor(logging.INFO):
        facts = {
            "name": ACCESS.name,
            "levelno": logging.INFO,
            "levelname": "INFO",
            "msg": MESSAGE,
            "created": entry.created,
            FACTS: entry.facts(),
        }
        ACCESS.handle(logging.makeLogRecord(facts))
