"""Around the event loop to a client: for threads that send much."""

import select
import socket
import threading
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvidzarr.http.writer import Writer

PATIENCE_MS = 10.0
"""So long a thread waits for a client to make room; a slower one is for the event loop."""

_LIMIT_S = 0.1
"""So long it tries to send what it was given."""


class Outlet:
    """The sending side of one connection, for one thread at a time, while the event loop sends nothing.

    The loop may give up the connection meanwhile: so the outlet has a descriptor of its own. Who claims it closes it.

    Parameters
    ----------
    link
        Copy of the connection's socket.
    writer
        Counts what is sent.
    """

    def __init__(self, link: socket.socket, writer: "Writer") -> None:
        link.setblocking(False)  # `socket.setdefaulttimeout` would have it wait
        self._link = link
        self._writer = writer
        self._claim = threading.Lock()
        self._room = select.poll()
        self._room.register(link, select.POLLOUT)

    def claim(self) -> bool:
        """Take it, for good; False if somebody has."""
        return self._claim.acquire(blocking=False)

    def close(self) -> None:
        """Close the descriptor; the connection goes on."""
        self._link.close()

    def send(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Send; return what the client did not make room for in time. `ConnectionResetError` if it left."""
        until = monotonic() + _LIMIT_S
        try:
            while pieces:
                try:
                    sent = self._link.sendmsg(pieces)
                except BlockingIOError:
                    if monotonic() > until or not self._room.poll(PATIENCE_MS):
                        return pieces
                else:
                    self._writer.sent += sent
                    pieces = _without(sent, pieces)
        except OSError as error:
            raise ConnectionResetError("the client left") from error
        return ()


def _without(count: int, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
    """Return what follows the first `count` bytes."""
    for index, piece in enumerate(pieces):
        if count < len(piece):
            return (piece[count:], *pieces[index + 1 :])
        count -= len(piece)
    return ()
