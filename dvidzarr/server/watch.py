"""Requests that stand still: no byte came or went for so long that nobody can be waiting for them any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

_LOOKS = 8
"""How often one request is looked at within the time it has."""


@dataclass(slots=True)
class _Running:
    deadline: asyncio.Timeout
    progress: int
    since: float


class Watch:
    """Ends requests that made no progress for `patience` seconds. Lives on one event loop, which guards it.

    One timer looks at all of them: a deadline of its own would cost every request more than it takes to count it here,
    and long bodies and answers may take as long as they flow.
    """

    def __init__(self, patience: float) -> None:
        self.given_up = 0
        self._patience = patience
        self._running: dict[web.BaseRequest, _Running] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def over(self, request: web.BaseRequest) -> AsyncIterator[None]:
        """Watch a request; `TimeoutError` in the place where it stands still."""
        async with asyncio.timeout(None) as deadline:
            self.begin(request, deadline)
            try:
                yield
            finally:
                self.end(request)
