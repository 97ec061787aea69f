"""Connections: bytes to requests, one answer after the other, and how long a client may take for what.

The grammar of HTTP/1.1 is llhttp's (by `httptools`), which refuses what could be read in two ways. What is here: order,
limits, and the end. Bodies of known size go past the parser.
"""

import asyncio
import logging
import socket
import sys
from collections import deque
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httptools

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.errors import PlainError
from dvidzarr.http.incoming import Body
from dvidzarr.http.request import Request
from dvidzarr.http.responses import failure
from dvidzarr.http.writer import Writer

if TYPE_CHECKING:
    from dvidzarr.server.httpserver import HttpServer

LOG = logging.getLogger("dvidzarr.server")

_GONE = "the client left"
_ONLY_ONCE = ("host", "content-length", "transfer-encoding")
_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class State(Enum):
    """What a connection does, or waits for."""

    HEAD = auto()
    """A request, from its first byte to the end of its headers; the first one from the beginning."""
    IDLE = auto()
    """The next request."""
    ANSWER = auto()
    """The handler."""
    FLUSH = auto()
    """The client, that shall read the answer before the next request has its turn."""
    LINGER = auto()
    """The rest of a body nobody wants: its sender shall get to see the answer."""
    CLOSING = auto()
    """The client, that shall read the last answer."""


class Connection(asyncio.BufferedProtocol):
    """One client. Lives on one event loop."""

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._limits = server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._writer: Writer
        self._peer = ""
        self._state = State.HEAD
        self._since = monotonic()
        self._progress = -1
        self._held = False
        self._last = False
        """Whether no more requests are taken."""
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._farewell: PlainError | None = None
        """What is said at the end to a client that sent no HTTP."""
        # what is being read:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._body: Body | None = None
        self._past_parser = False
        self._room: memoryview | None = None

    # --- what the transport calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it at once when there are too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._writer = Writer(self._transport, self._limits.send_s)
        link = transport.get_extra_info("socket")
        if link is not None and link.family in (socket.AF_INET, socket.AF_INET6):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer = transport.get_extra_info("peername")
            self._peer = str(peer[0]) if peer else ""
        if not self._server.add(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; what is being answered finds out when it wants to send."""
        self._server.remove(self)
        self._last = True
        self._waiting.clear()
        self._writer.resume()
        if self._body is not None:
            self._body.fail(ConnectionResetError(_GONE))

    def eof_received(self) -> bool:
        """Let a client that sends nothing more get the answers to what it sent."""
        self._last = True
        return self._running is not None and self._body is None

    def pause_writing(self) -> None:
        """Note that the transport holds enough."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """Go on with what waited for room."""
        self._writer.resume()
        if self._state is State.FLUSH:
            self._proceed()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes shall lie: large bodies go straight to who wants them."""
        self._room = self._body.room() if self._past_parser and self._body is not None else None
        return self._server.buffer if self._room is None else self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Read on."""
        body = self._body
        if self._room is not None and body is not None:
            body.fill_room(nbytes)
            self._room = None
            if not body.missing:
                self._end_past_parser()
            return
        data = bytes(self._server.buffer[:nbytes])
        if self._past_parser and body is not None:
            missing = body.missing
            body.feed(data[:missing])
            if len(data) < missing:
                return
            self._end_past_parser()
            data = data[missing:]
        if data and not self._last:
            self._parse(data)

    def _end_past_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)  # the old one still waits for this body
        self.on_message_complete()

    def _parse(self, data: bytes) -> None:
        if self._state is State.IDLE:
            self._enter(State.HEAD)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # what follows is not spoken here; the request itself is answered
            if self._state is State.IDLE:
                self._proceed()
        except httptools.HttpParserCallbackError as error:
            self._refuse(
                error.__context__ if isinstance(error.__context__, PlainError) else _malformed(error)
            )
        except httptools.HttpParserError as error:
            self._refuse(_malformed(error))
        else:
            self._past_parser = self._body is not None and self._body.declared is not None
            if self._head_bytes and self._body is None:
                self._head_bytes += len(data)
                if self._head_bytes > self._limits.head_bytes:
                    self._refuse(
                        PlainError(431, f"the headers have more than {self._limits.head_bytes} bytes")
                    )

    def _refuse(self, error: PlainError) -> None:
        """Take no more from a client that sends no HTTP, and tell it in its turn."""
        self._server.gate.malformed += 1
        self._last = True
        if self._body is not None:
            self._body.fail(InvalidInputError(f"malformed body: {error}"))
        else:
            self._farewell = error
        if self._running is None:
            self._proceed()

    # --- what the parser calls -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers = {}
        self._head_bytes = 1

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._url += part
        if len(self._url) > self._limits.line_bytes:
            raise PlainError(431, f"the target has more than {self._limits.line_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if len(name) + len(value) > self._limits.line_bytes:
            raise PlainError(431, f"a header has more than {self._limits.line_bytes} bytes")
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape")
        if key in self._headers:
            if key in _ONLY_ONCE:
                raise PlainError(400, f"the header {key} stands twice")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Queue the request, which has its turn at once if none is being answered."""
        self._head_bytes = 0
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise PlainError(400, f"400 Bad Request: HTTP/{version} is not spoken here")
        length = None if "transfer-encoding" in headers else int(headers.get("content-length") or 0)
        body = self._body = Body(self, length, expected=headers.get("expect", "").lower() == "100-continue")
        self._waiting.append(
            Request(
                parser.get_method().decode("ascii"),
                self._url.decode("utf-8", "surrogateescape"),
                headers,
                body,
                self._writer,
                self._peer,
                keep_alive=parser.should_keep_alive(),
                is_old=version == "1.0",
            )
        )
        if self._running is None:
            self._proceed()
        if self._waiting:
            self.hold()

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._body is not None:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        """End the body."""
        if self._body is not None:
            body, self._body = self._body, None
            self._past_parser = False
            body.end()
            if self._state is State.LINGER:
                self._proceed()

    # --- one answer after the other --------------------------------------------------------------------------

    def _proceed(self) -> None:
        """Do what is next."""
        if self._transport.is_closing():
            return
        if self._writer.full:
            self._enter(State.FLUSH)
        elif self._waiting:
            self._begin(self._waiting.popleft())
        elif self._last:
            self._say_farewell()
        elif self._head_bytes:
            self._enter(State.HEAD)
        else:
            self._enter(State.IDLE)

    def _begin(self, request: Request) -> None:
        self._running = request
        self._server.running.add(request)
        self._enter(State.ANSWER)
        self.go_on()
        eager = {} if self._waiting else _EAGER  # one that ends at once begins the next, and that the next
        request.task = asyncio.Task(self._answer(request), loop=asyncio.get_running_loop(), **eager)

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.handler(request)
        except Exception:
            LOG.exception("unexpected failure of a connection")
            self._transport.abort()
        finally:
            self._answered(request)

    def _answered(self, request: Request) -> None:
        self._running = None
        self._server.running.discard(request)
        request.body.drop()
        if not request.keep_alive:
            self._last = True
            self._waiting.clear()
        if request.body.whole:
            self._proceed()
        elif request.body.coming:
            self._enter(State.LINGER)
        else:
            self._last = True
            self._proceed()

    def _say_farewell(self) -> None:
        if self._farewell is not None:
            answer = failure(self._farewell, "")
            answer.close = True
            answer.headers["Server"] = self._server.name
            answer.send(Request("GET", "", {}, Body(self, 0), self._writer))
        self._enter(State.CLOSING)
        self._transport.close()

    def _enter(self, state: State) -> None:
        self._state = state
        self._since = monotonic()
        self._progress = -1

    # --- reading, as the body wants it -----------------------------------------------------------------------

    def hold(self) -> None:
        """Read no more until `go_on`."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again, unless requests wait for their turn."""
        if self._held and not self._waiting and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def invite(self) -> None:
        """Tell a client that waits for it to send its body."""
        self._writer.invite()

    # --- time ------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End what takes too long."""
        age, limits = now - self._since, self._limits
        if self._state is State.ANSWER:
            self._look_at(self._running, now)
        elif self._state is State.HEAD:
            if age > limits.header_s:
                self._transport.abort()
        elif self._state is State.IDLE:
            if age > limits.idle_s:
                self._transport.close()
        elif self._state is State.LINGER:
            if age > limits.linger_s:
                self._last = True
                self._proceed()
        elif self._moved(self._transport.get_write_buffer_size(), now):
            return
        elif age > limits.send_s:
            self._transport.abort()

    def _look_at(self, request: Request | None, now: float) -> None:
        if request is None:
            return
        limits = self._limits
        request.body.look(now, limits.body_s, limits.body_rate)
        if self._moved(request.progress, now) or request.given_up:
            return
        if now - self._since > limits.handler_s:
            self._server.gate.given_up += 1
            request.give_up()

    def _moved(self, progress: int, now: float) -> bool:
        if progress == self._progress:
            return False
        self._progress, self._since = progress, now
        return True

    def finish(self) -> None:
        """Take no more requests; what is being answered gets its answer."""
        self._last = True
        if self._running is not None:
            self._running.keep_alive = False
        elif self._state in (State.IDLE, State.HEAD):
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._running is not None and self._running.task is not None:
            self._running.task.cancel()
        self._transport.abort()


def _malformed(error: Exception) -> PlainError:
    return PlainError(400, f"400 Bad Request: {error}")
