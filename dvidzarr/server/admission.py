"""Who may go on: memory that requests in flight may hold, and slots for throttled requests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dvidzarr.core.errors import BusyError
from dvidzarr.http.errors import PlainError
from dvidzarr.server.eventloop import in_task

LARGE: ContextVar[bool] = ContextVar("large", default=False)
"""Whether the running request holds a large part of the memory."""

_SMALL = 256
_RESERVED = 16


class Admission:
    """A budget of bytes, first come first served. Lives on one event loop, which guards it.

    A request of up to one part in 256 of the budget is small. There is always room for 16 of these beside the large
    ones: a picture does not wait until volumes are sent.
    """

    def __init__(self, budget: int, timeout: float) -> None:
        self.budget = budget
        self.shed = 0
        self._small = budget // _SMALL
        self._large_budget = budget - _RESERVED * self._small
        self._timeout = timeout
        self._held = 0
        self._waiting: dict[asyncio.Future[None], int] = {}

    def is_small(self, size: int) -> bool:
        """Tell whether a request of this size may pass those that wait."""
        return size <= self._small

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def admit(self, size: int) -> "Share":
        """Hold `size` bytes while the context lasts; one that exceeds the whole budget waits until it is alone.

        Raises
        ------
        BusyError
            The others did not finish within the time allowed.
        """
        return Share(self, min(size, self._large_budget))

    async def take(self, size: int) -> None:
        """Hold `size` bytes until they are given back; raises as `admit`."""
        if self.is_small(size) and self._held + size <= self.budget:
            self._held += size
        elif self._waiting or self._held + size > self._large_budget:
            await self._queue(size)
        else:
            self._held += size

    def give_back(self, size: int) -> None:
        """Let others have `size` bytes."""
        self._held -= size
        self._wake()

    async def _queue(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = size
        try:
            await in_task()
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException as error:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():
                self._held -= size  # admitted in the moment of giving up
            self._wake()
            if isinstance(error, TimeoutError):
                self.shed += 1
                held = f"the requests in flight hold {self._held} of {self.budget} bytes"
                raise BusyError(f"{held} and did not end within {self._timeout} s") from None
            raise

    def _wake(self) -> None:
        while self._waiting:
            turn, size = next(iter(self._waiting.items()))
            if turn.done():  # cancelled: its task was told to give up and has not run since
                del self._waiting[turn]
                continue
            if self._held + size > self._large_budget:
                return
            del self._waiting[turn]
            self._held += size
            turn.set_result(None)


class Share:
    """What a request holds of the budget, and the knowledge that it is `LARGE`."""

    __slots__ = ("_admission", "_before", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self._size = size

    async def __aenter__(self) -> None:
        """Wait for it."""
        await self._admission.take(self._size)
        self._before = LARGE.get()
        LARGE.set(self._before or not self._admission.is_small(self._size))

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        LARGE.set(self._before)
        self._admission.give_back(self._size)


class Throttle:
    """Slots for requests that ask for throttling: those beyond `limit` are turned away, as in DVID."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot; an answer of 503 if all are taken (spec-server §1.6: an empty line at its end)."""
        if self._running >= self.limit:
            text = f"Server already running {self._running} throttled operations (max = {self.limit})\n"
            raise PlainError(503, text)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
