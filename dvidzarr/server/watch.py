"""Requests that stand still: no byte came or went for so long that nobody can be waiting for them any more."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

_LOOKS = 8
"""How often a request is looked at within the time it has."""


@dataclass(slots=True)
class Watched:
    """A request that is being answered. `sending`: its answer is made, only the client keeps it waiting."""

    request: web.BaseRequest
    sending: bool = False
    progress: int = -1
    since: float = 0.0


class Watch:
    """Ends requests that made no progress for too long. Lives on one event loop, which guards it.

    One timer looks at all of them, so that a request pays only for being written down; long bodies and answers may take
    as long as they flow.

    Parameters
    ----------
    patience
        Seconds without progress that a request may take.
    send_patience
        Seconds that it may take once its answer waits for the client.
    """

    def __init__(self, patience: float, send_patience: float) -> None:
        self.given_up = 0
        self._patience = patience
        self._send_patience = send_patience
        self._pause = min(patience, send_patience) / _LOOKS
        self._running: dict[asyncio.Timeout, Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: web.BaseRequest, deadline: asyncio.Timeout) -> Watched:
        """Watch a request; `deadline` is made to expire when it stands still."""
        watched = self._running[deadline] = Watched(request)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)
        return watched

    def end(self, deadline: asyncio.Timeout) -> None:
        """Forget a request."""
        del self._running[deadline]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for deadline, watched in self._running.items():
            progress = watched.request.content.total_bytes + watched.request.writer.output_size
            patience = self._send_patience if watched.sending else self._patience
            if progress != watched.progress:
                watched.progress, watched.since = progress, now
            elif now - watched.since >= patience and not deadline.expired():
                self.given_up += not watched.sending
                deadline.reschedule(now)
        self._timer = loop.call_later(self._pause, self._look) if self._running else None
