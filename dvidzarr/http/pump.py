"""Answers that take work: small ones are made whole, larger ones piece by piece, each sent while the next is made.

What is quick and not large the event loop makes itself, while it serves nobody else (see `server.turns`). Else one thread
makes the pieces and another one sends them, without the loop: to hand each piece to it took a fourth longer for 128 MiB
(measured), and its write holds the interpreter while the kernel copies. The loop takes over what a slow client leaves, so
that nobody keeps a thread by reading slowly.
"""

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import chain
from queue import SimpleQueue
from threading import Lock, Semaphore
from time import monotonic
from typing import TYPE_CHECKING

from dvidzarr.http.endpoint import Call
from dvidzarr.http.response import Response

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dvidzarr.http.outlet import Outlet

LOG = logging.getLogger("dvidzarr.http")

BLOCK = 1 << 20
"""Pieces are gathered until they have so many bytes; a smaller answer is one body."""

PIECES = 2
"""How many pieces exist at a time: one is made while the other is sent (or its end lies with the loop)."""

_BLOCKS = PIECES + 2  # one is gathered, then joined; what was gathered last may be as large

Work = tuple[Hashable, int]
"""A kind of work, and how much of it."""

_ROUND_S = 0.02
"""So long an answer keeps its threads if others wait for theirs."""

_LOOP_BYTES = 2 << 20
"""The loop gets parts of so many bytes: more at once are slower (measured)."""

_COPIED_BYTES = 64 << 10
"""Smaller parts it gets as copies: so much a transport keeps without saying that it is full."""


async def gathered(
    call: Call,
    pieces: "Iterable[Buffer]",
    content_type: str = "application/octet-stream",
    *,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """Send bytes that a blocking iterator yields.

    A failure before `BLOCK` bytes is an error answer; a later one aborts the connection.

    Parameters
    ----------
    length
        Size of the whole, if known; else a long answer goes out chunked.
    """
    blocks = _blocks(pieces)
    more = {**(headers or {}), "Content-Type": content_type}
    async with call.runtime.admit(_BLOCKS * BLOCK):
        first = await call.offload(next, blocks, None)
        if first is None or len(first) < BLOCK:
            return Response(first or b"", status=status, headers=more)
        whole = chain((first,), blocks)
        del first  # blocks are let go as soon as they are sent
        return await pumped(call, whole, length, headers=more, status=status)


def _blocks(pieces: "Iterable[Buffer]") -> Iterator[memoryview]:
    """Yield the pieces joined to blocks, all but the last of at least `BLOCK` bytes."""
    parts: list[Buffer] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += memoryview(piece).nbytes
        if size >= BLOCK:
            size = 0
            yield _joined(parts)
    if parts:
        yield _joined(parts)


def _joined(parts: "list[Buffer]") -> memoryview:
    block = memoryview(b"".join(parts))
    parts.clear()
    return block


async def pumped(
    call: Call,
    pieces: Iterator[memoryview],
    length: int | None = None,
    *,
    work: Work | None = None,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """Send what a blocking iterator yields.

    A failure before the first piece is an error answer; a later one aborts the connection: a client must never take a part
    for the whole.

    Parameters
    ----------
    pieces
        Contiguous pieces of any size, made one at a time. Each may use the memory of the one `PIECES` before.
    length
        Size of the whole; None sends it chunked.
    work
        What it is to make each piece, if it is so little that the event loop may do it; else threads do.
    """
    own = {**call.headers, "Content-Type": "application/octet-stream", **(headers or {})}
    response = Response(status=status, headers=own)
    try:
        await _Pump(call, response, length, pieces, work).run()
    except ConnectionError:
        raise
    except Exception:
        if not response.begun:
            raise
        LOG.exception("failed while streaming", extra={"path": call.path})
        raise ConnectionAbortedError from None
    return response


class _Pump:
    """One answer on its way: in rounds on threads, and between them what a client did not take at once on the loop."""

    def __init__(
        self,
        call: Call,
        response: Response,
        length: int | None,
        pieces: Iterator[memoryview],
        work: Work | None,
    ) -> None:
        self._call = call
        self._response = response
        self._length = length
        self._pieces = pieces
        self._work = work
        self._seconds: float | None = None
        """How long the last piece took to make, or to fail."""
        self._ended = False
        """Whether all has been made."""
        self._given_up = False
        """Whether nobody wants it any more."""
        self._beginning = Lock()
        """Once it is given up it does not begin: the loop may send an error then."""

    async def run(self) -> None:
        """Send all of it."""
        try:
            while not self._ended:
                await self._send_slowly(await self._made())
        finally:
            with self._beginning:
                self._given_up = True

    async def _made(self) -> Sequence[memoryview]:
        """Make pieces, here or on a thread; return what the loop shall send."""
        if self._work is None:
            return await self._made_on_thread()
        turns = self._call.runtime.turns
        try:
            return self._next() if turns.may_hold_up(*self._work) else await self._made_on_thread()
        finally:
            if self._seconds is not None:
                turns.took(*self._work, self._seconds)

    async def _made_on_thread(self) -> Sequence[memoryview]:
        outlet = self._call.request.writer.outlet()
        try:
            return await self._call.offload(self._round, outlet)
        finally:
            if outlet is not None and outlet.claim():  # cancelled before a thread had its turn
                outlet.close()

    async def _send_slowly(self, pieces: Sequence[memoryview]) -> None:
        writer = self._call.request.writer
        for piece in pieces:
            for start in range(0, len(piece), _LOOP_BYTES):
                part = piece[start : start + _LOOP_BYTES]
                writer.write((bytes(part) if len(part) < _COPIED_BYTES else part,), len(part))
                await writer.drain()

    def _round(self, outlet: "Outlet | None") -> Sequence[memoryview]:
        """Make pieces, and send them for a while; return what the loop shall send."""
        if outlet is None:
            return self._next()
        if not outlet.claim():
            return ()
        try:
            return self._sent(outlet)
        finally:
            outlet.close()

    def _sent(self, outlet: "Outlet") -> Sequence[memoryview]:
        """Send pieces until the client lags, or others shall have their turn; return what it did not take."""
        piece = self._next()
        if not self._goes_on():
            return outlet.send(piece)
        try:
            relay = _Relay(outlet, self._call.runtime.senders)
        except RuntimeError:  # the system allows no more threads
            return outlet.send(piece)
        until = monotonic() + _ROUND_S
        try:
            relay.put(piece)
            del piece
            while self._goes_on() and not relay.stopped and not self._is_over(until):
                relay.put(self._next())
        finally:  # after a failure too: nobody sends any more then
            left = relay.end()
        return left

    def _is_over(self, until: float) -> bool:
        return monotonic() > until and self._call.runtime.crowded

    def _goes_on(self) -> bool:
        return not (self._ended or self._given_up)

    def _next(self) -> Sequence[memoryview]:
        """Return the next piece with what belongs around it."""
        begun = monotonic()
        try:
            piece = next(self._pieces, None)
        finally:
            self._seconds = monotonic() - begun
        with self._beginning:
            if self._given_up:
                return ()
            if not self._response.begun:
                self._response.begin(self._call.request, self._length)
        if piece is None or self._call.method == "HEAD":
            self._ended = True
            return ()
        pieces = self._response.framed(piece)
        self._ended = self._response.sent == self._length
        return pieces


class _Relay:
    """Sends on another thread what it is given, one piece after the other, until the client lags."""

    def __init__(self, outlet: "Outlet", senders: Executor) -> None:
        self.stopped = False
        """Whether nothing more will be sent."""
        self._outlet = outlet
        self._pieces: SimpleQueue[Sequence[memoryview] | None] = SimpleQueue()
        self._room = Semaphore(PIECES - 1)
        try:
            self._sending = senders.submit(self._send)
        except RuntimeError:
            self._pieces.put(None)  # it waits for a thread all the same
            raise

    def put(self, piece: Sequence[memoryview]) -> None:
        """Have a piece sent; wait while the one before is on its way."""
        self._room.acquire()
        self._pieces.put(piece)

    def end(self) -> Sequence[memoryview]:
        """Wait until all is sent; return what was not. `ConnectionResetError` if the client left."""
        self._pieces.put(None)
        return self._sending.result()

    def _send(self) -> Sequence[memoryview]:
        left: list[memoryview] = []
        try:
            while (piece := self._pieces.get()) is not None:
                left += piece if left else self._outlet.send(piece)
                self.stopped = bool(left)
                del piece
                self._room.release()
        finally:
            self.stopped = True
            self._room.release(PIECES)
        return left
