"""The connections of one server: how many, how long they may take, and their end."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING

from dvidzarr.http.request import Request
from dvidzarr.server.connections import LINGER_S, Connection, State

if TYPE_CHECKING:
    from dvidzarr.core.settings import LimitSettings
    from dvidzarr.server.listening import HandOn

Handler = Callable[[Request], Awaitable[object]]
"""Answers a request; an error that it raises ends the connection."""

_BUFFER_BYTES = 256 << 10
_LOOKS = 8
"""How often a connection is looked at within the time it has."""

_LONGEST_PAUSE_S = 1.0


class ConnectionCounts:
    """Counts the connections of one server, and what it refused or gave up; its event loop guards it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.refused = 0
        self.malformed = 0
        self.given_up = 0


class HttpServer:
    """What makes a `Connection` of each that is accepted. Lives on one event loop.

    One timer looks at all connections, so that a request pays for no timer of its own.
    """

    def __init__(
        self, handler: Handler, counts: ConnectionCounts, limits: "LimitSettings", name: str
    ) -> None:
        self.handler = handler
        self.counts = counts
        self.limits = limits
        waits = (
            limits.header_timeout_s,
            limits.idle_timeout_s,
            limits.body_timeout_s,
            limits.handler_timeout_s,
        )
        self._pause_s = min(_LONGEST_PAUSE_S, min(*waits, limits.send_timeout_s, LINGER_S) / _LOOKS)
        self.name = name
        self.hand_on: HandOn | None = None
        """What gives the connection of a client that writes to the process that does; None there."""
        self._connections: set[Connection] = set()
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        """Where bytes lie between the kernel and the parser, which copies them before anything else is read."""
        self.running: set[Request] = set()
        """The requests that are being answered."""
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    def go_on_with(self) -> Connection:
        """Return the protocol of a connection taken over from another process: it begins idle."""
        return Connection(self, State.IDLE)

    def add(self, connection: Connection) -> bool:
        """Take a connection in; tell whether there may be so many."""
        self._connections.add(connection)
        self._empty.clear()
        self.counts.open += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._look)
        if self.counts.open > self.counts.limit:
            self.counts.refused += 1
            return False
        return not self._closing

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)
        self.counts.open -= 1
        if not self._connections:
            self._empty.set()

    async def shutdown(self, patience: float) -> None:
        """Finish what runs, for at most so many seconds; nothing new is taken."""
        self._closing = True
        for connection in tuple(self._connections):
            connection.finish()
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
        tasks = [request.task for request in self.running if request.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause_s, self._look) if self._connections else None
        now = monotonic()
        for connection in tuple(self._connections):
            connection.look(now)
