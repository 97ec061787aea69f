"""Requests that stand still: no byte came or went for so long that nobody can be waiting for them any more."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

_LOOKS = 8
"""How often a request is looked at within the time it has."""


@dataclass(slots=True)
class _Running:
    request: web.BaseRequest
    progress: int = -1
    since: float = 0.0


class Watch:
    """Ends requests that made no progress for `patience` seconds. Lives on one event loop, which guards it.

    One timer looks at all of them, so that a request pays only for being written down; long bodies and answers may take
    as long as they flow.
    """

    def __init__(self, patience: float) -> None:
        self.given_up = 0
        self._patience = patience
        self._running: dict[asyncio.Timeout, _Running] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: web.BaseRequest, deadline: asyncio.Timeout) -> None:
        """Watch a request; `deadline` is made to expire when it stands still."""
        self._running[deadline] = _Running(request)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience / _LOOKS, self._look)

    def end(self, deadline: asyncio.Timeout) -> None:
        """Forget a request."""
        del self._running[deadline]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for deadline, running in self._running.items():
            progress = running.request.content.total_bytes + running.request.writer.output_size
            if progress != running.progress:
                running.progress, running.since = progress, now
            elif now - running.since >= self._patience and not deadline.expired():
                self.given_up += 1
                deadline.reschedule(now)
        self._timer = loop.call_later(self._patience / _LOOKS, self._look) if self._running else None
