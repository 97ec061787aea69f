"""Connections: one answer after the other, and how long a client may take for what."""

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, cast

from dvidzarr.http.errors import PlainError
from dvidzarr.http.incoming import Body
from dvidzarr.http.request import Request
from dvidzarr.http.responses import failure
from dvidzarr.http.writer import Writer
from dvidzarr.server.eventloop import start
from dvidzarr.server.listening import handed_on, prepared
from dvidzarr.server.reading import Reader

if TYPE_CHECKING:
    from dvidzarr.server.httpserver import HttpServer
    from dvidzarr.server.listening import HandOn

LOG = logging.getLogger("dvidzarr.server")

LINGER_S = 2.0
"""So long the rest of a refused body is read, so that its sender gets to see the answer."""


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
    """The client, that shall read the last answer and close."""


class Connection(asyncio.BufferedProtocol):
    """One client. Lives on one event loop."""

    def __init__(self, server: "HttpServer", state: State = State.HEAD) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport
        self._writer: Writer
        self._reader: Reader
        self._state = state
        self._since = monotonic()
        self._progress = -1
        self._held = False
        self._half = False
        """Whether the client will send nothing more."""
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._farewell: PlainError | None = None
        """What is said at the end to a client that sent no HTTP."""

    # --- what the transport calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it at once when there are too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._writer = Writer(self._transport)
        peer = prepared(transport)
        self._reader = Reader(self, self._limits, self._server.buffer, self._writer, peer)
        if not self._server.add(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; what is being answered finds out when it wants to send."""
        self._server.remove(self)
        self._waiting.clear()
        self._writer.resume()
        self._reader.lose()

    def eof_received(self) -> bool:
        """Let a client that sends nothing more get the answers to what it sent."""
        self._reader.closed = self._half = True
        if self._reader.body is None and (self._running is not None or self._waiting):
            return True
        self._enter(State.CLOSING)
        return False

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
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Read on."""
        self._reader.took(nbytes)

    # --- what the reader calls -------------------------------------------------------------------------------

    def begun(self) -> None:
        """Note the first byte of a request."""
        if self._state is State.IDLE:
            self._enter(State.HEAD)

    def take(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def parsed(self) -> bool:
        """Begin what was queued if nothing is being answered; tell whether more may be read."""
        if self._waiting and self._running is None:
            self._proceed()
        if self._waiting:
            self.hold()
        return not self._waiting

    def body_ended(self) -> None:
        """Go on if only this was waited for."""
        if self._state is State.LINGER:
            self._proceed()

    def refuse(self, error: PlainError) -> None:
        """Take no more requests; tell a client that sends no HTTP, in its turn."""
        self._server.counts.malformed += 1
        if self._reader.body is None:
            self._farewell = error
        if self._running is None:
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
        elif self._reader.closed:
            self._say_farewell()
        elif self._reader.in_head:
            self._enter(State.HEAD)
        else:
            self._enter(State.IDLE)

    def _begin(self, request: Request) -> None:
        self._running = request
        self._server.running.add(request)
        self._enter(State.ANSWER)
        self.go_on()
        # not at once while more waits behind it, nor in the task of the request before: it would take that for its own
        answer = self._answer(request)
        if self._waiting or self._reader.has_more or asyncio.current_task() is not None:
            request.task = asyncio.get_running_loop().create_task(answer)
        else:
            request.task = start(answer)

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
            self._reader.closed = True
            self._waiting.clear()
            self._farewell = None
        if request.body.is_lost:
            self._reader.closed = True
        if request.body.whole or request.body.is_lost:
            self._proceed()
        else:
            self._enter(State.LINGER)
        if request.moves_home and self._server.hand_on is not None:
            asyncio.get_running_loop().call_soon(self._hand_on, self._server.hand_on)

    def _hand_on(self, hand_on: "HandOn") -> None:
        """Let another process have the connection, if it is between two requests."""
        if self._state is not State.IDLE or self._reader.has_more or self._transport.get_write_buffer_size():
            return
        self._transport.pause_reading()
        if handed_on(self._transport, hand_on):
            self._transport.abort()
        else:
            self._transport.resume_reading()

    def _say_farewell(self) -> None:
        if self._farewell is not None:
            answer = failure(self._farewell, "")
            answer.close = True
            answer.headers["Server"] = self._server.name
            answer.send(Request("GET", "", {}, Body(self, 0), self._writer))
        # To close while the client still sends could take the answer away from it: it shall close, or run out of time.
        self._end(politely=not self._half)

    def _end(self, *, politely: bool = False) -> None:
        self._enter(State.CLOSING)
        self.go_on()
        self._transport.write_eof() if politely else self._transport.close()

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
            self._reader.read_on()

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
            if age > limits.header_timeout_s:
                self._transport.abort()
        elif self._state is State.IDLE:
            if age > limits.idle_timeout_s:
                self._end()
        elif self._state is State.LINGER:
            if age > LINGER_S:
                self._end()
        elif not self._has_unread(now) and self._state is State.CLOSING and age > LINGER_S:
            self._transport.abort()

    def _look_at(self, request: Request | None, now: float) -> None:
        if request is None or self._has_unread(now):
            return
        limits = self._limits
        request.body.look(now, limits.body_timeout_s, limits.body_min_rate)
        if self._moved(request.progress, now) or request.given_up:
            return
        if now - self._since > limits.handler_timeout_s:
            self._server.counts.given_up += 1
            request.give_up()

    def _has_unread(self, now: float) -> bool:
        """Tell whether the client has to make room for something; end it if it does not read."""
        unsent = self._transport.get_write_buffer_size()
        if unsent and not self._moved(unsent, now) and now - self._since > self._limits.send_timeout_s:
            self._transport.abort()
        return unsent > 0

    def _moved(self, progress: int, now: float) -> bool:
        if progress == self._progress:
            return False
        self._progress, self._since = progress, now
        return True

    def finish(self) -> None:
        """Take no more requests; what is being answered gets its answer."""
        self._reader.closed = True
        if self._running is not None:
            self._running.keep_alive = False
        elif self._state in (State.IDLE, State.HEAD):
            self._end()

    def abort(self) -> None:
        """End at once."""
        if self._running is not None and self._running.task is not None:
            self._running.task.cancel()
        self._transport.abort()
