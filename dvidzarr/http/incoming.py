"""The body of a request while it arrives."""

import asyncio
from time import monotonic
from typing import Protocol

from dvidzarr.http.errors import BodyTimeoutError

READ_AHEAD = 256 << 10
"""A connection stops reading when a body is so far ahead of who takes it: each stop costs system calls."""


class Source(Protocol):
    """Where the bytes come from."""

    def hold(self) -> None:
        """Read no more until `go_on`."""

    def go_on(self) -> None:
        """Read again."""

    def invite(self) -> None:
        """Tell a client that waits for it to send."""


class Body:
    """Bytes that a client sends. Lives on one event loop.

    Attributes
    ----------
    declared
        Content-Length; None if chunked.
    received
        Bytes that came.
    whole
        Whether all of it is here.
    """

    __slots__ = (
        "_at", "_dropping", "_error", "_expected", "_fed", "_held", "_pieces", "_since", "_source", "_target",
        "_waited", "_waiter", "declared", "received", "whole",
    )  # fmt: skip

    def __init__(self, source: Source, declared: int | None, *, expected: bool = False) -> None:
        self.declared = declared
        self.received = 0
        self.whole = declared == 0
        self._source = source
        self._expected = expected  # the client waits to be told to send
        self._pieces: list[bytes | bytearray] = []
        self._held = 0
        self._target: memoryview | None = None
        self._at = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._dropping = False
        self._since = self._fed = self._waited = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the rest cannot be expected: it is malformed, or the client was never told to send."""
        return not self.whole and (self._error is not None or self._expected)

    # --- the connection's side -------------------------------------------------------------------------------

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes that came; memory that is lent is copied."""
        self._expected = False
        if self._target is not None and not self._dropping:
            take = min(len(data), len(self._target) - self._at)
            self._target[self._at : self._at + take] = data[:take]
            self.fill_room(take)
            data = data[take:]
        self.received += len(data)
        if data and not self._dropping:
            if self.declared is not None:
                self._pieces.append(bytes(data))
            elif self._pieces:
                self._pieces[-1] += data  # chunks may be tiny
            else:
                self._pieces.append(bytearray(data))
            self._held += len(data)
            if self._held > READ_AHEAD:
                self._source.hold()
            self._wake()

    @property
    def missing(self) -> int:
        """How many of the declared bytes have not come."""
        return (self.declared or 0) - self.received

    def room(self) -> memoryview | None:
        """Return memory that somebody waits to have filled with the next bytes, if there is any."""
        target = self._target
        return None if target is None else target[self._at : self._at + self.missing]

    def fill_room(self, size: int) -> None:
        """Note that so many bytes were put into it."""
        self.received += size
        self._at += size
        self._fed = monotonic()
        if self._target is not None and self._at == len(self._target):
            self._target = None
            self._wake()

    def end(self) -> None:
        """Note that all of it is here."""
        self.whole = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Note why no more will come."""
        if self._error is None and not self.whole:
            self._error = error
            self._wake()

    def drop(self) -> None:
        """Forget what is here and what still comes."""
        self._dropping = True
        self._pieces.clear()
        self._held = 0
        self._source.go_on()

    def look(self, now: float, idle: float, rate: float) -> None:
        """Give up a client that is waited for and sends nothing for `idle` seconds, or less than `rate` bytes per second."""
        if self._waiter is None:
            return
        if now - max(self._since, self._fed) > idle:
            self.fail(BodyTimeoutError(f"no byte of the body arrived for {idle} s"))
            return
        waited = self._waited + now - self._since
        if waited > idle and self.received < rate * waited:
            self.fail(BodyTimeoutError(f"the body came with less than {rate} bytes per second"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the handler's side ----------------------------------------------------------------------------------

    def arrived(self) -> bytes | None:
        """Return all of it without waiting, None if something is missing."""
        return self._taken() if self.whole and self._error is None else None

    async def piece(self) -> bytes | bytearray:
        """Return what came since, waiting for it if need be; no bytes at the end.

        Raises
        ------
        BodyTimeoutError
            The client stopped sending.
        InvalidInputError
            It is malformed.
        ConnectionError
            The client left.
        """
        while not self._pieces:
            if self.whole:
                return b""
            await self._wait()
        piece = self._pieces.pop(0)
        self._held -= len(piece)
        self._relax()
        return piece

    async def fill(self, target: memoryview) -> int:
        """Receive into memory until it is full or the body ends; return how many bytes came. Raises as `piece`."""
        at = 0
        while self._pieces and at < len(target):
            piece = self._pieces.pop(0)
            take = min(len(piece), len(target) - at)
            target[at : at + take] = piece[:take]
            at += take
            self._held -= take
            if take < len(piece):
                self._pieces.insert(0, piece[take:])
        self._relax()
        if at == len(target) or self.whole:
            return at
        self._target, self._at = target, at
        try:
            while self._is_filling():
                await self._wait()
            return self._at
        finally:
            self._target = None

    def _is_filling(self) -> bool:
        return self._target is not None and not self.whole

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self._expected:
            self._expected = False
            self._source.invite()
        self._waiter = asyncio.get_running_loop().create_future()
        self._since = monotonic()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._waited += monotonic() - self._since

    def _taken(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self._relax()
        return taken

    def _relax(self) -> None:
        if self._held <= READ_AHEAD // 2:
            self._source.go_on()
