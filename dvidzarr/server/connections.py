"""Connections: how many there may be, and how long a client may take to send its headers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

LOG = logging.getLogger("dvidzarr.server")

SERVER_NAME = "dvidzarr"
"""Instead of aiohttp's, which tells the versions of everything."""


class Gate:
    """Limits shared by the connections of one server; its event loop guards it."""

    def __init__(self, limit: int, header_timeout: float) -> None:
        self.limit = limit
        self.header_timeout = header_timeout
        self.open = 0
        self.refused = 0
        self.malformed = 0


class Connection(web.RequestHandler):
    """A connection that is closed when headers do not arrive in time: aiohttp has no such limit."""

    __slots__ = ("_answering", "_deadline", "_gate", "_link")

    def __init__(self, server: web.Server, gate: Gate, **options: Any) -> None:  # noqa: ANN401
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._gate = gate
        self._answering = False
        self._deadline: asyncio.TimerHandle | None = None
        self._link: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it at once when there are too many."""
        super().connection_made(transport)
        self._link = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._gate.open += 1
        self._arm()
        if self._gate.open > self._gate.limit:
            self._gate.refused += 1
            self._expire()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._gate.open -= 1
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first byte of a request."""
        if not self._answering and self._deadline is None:
            self._arm()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and what got past all other handling of errors."""
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = SERVER_NAME
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Count bytes that are no HTTP instead of logging them: whoever sends them could fill the disk."""
        if isinstance(options.get("exc_info"), HttpProcessingError):
            self._gate.malformed += 1
        else:
            LOG.error(*args, **({"exc_info": True} | options))

    def begin(self) -> None:
        """Note that a request is complete up to its body."""
        self._answering = True
        self._disarm()

    def end(self, *, whole: bool) -> None:
        """Note that a request is answered; the rest of a body not read `whole` starts no deadline."""
        self._answering = not whole

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._gate.header_timeout, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if self._link is not None:
            self._link.abort()


class GuardedServer(web.Server):
    """aiohttp's low-level server with these connections."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        gate: Gate,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(handler)
        self._gate = gate
        self._options = options

    def __call__(self) -> Connection:
        """Return the handler of a new connection."""
        return Connection(self, self._gate, **self._options)
