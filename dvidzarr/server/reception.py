"""Where the connections of a server with several processes come in, and are given to one of them."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from dvidzarr.server.listening import listening

LOG = logging.getLogger("dvidzarr.server")

_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_PAUSE_S = 1.0


class Taker(Protocol):
    """A process that takes connections."""

    def hand_over(self, connection: socket.socket) -> bool:
        """Give it a connection; False if it takes none."""


class Reception:
    """The listening sockets. Lives on one event loop.

    Parameters
    ----------
    takers
        Returns who takes connections now, the one to ask first at the front.
    """

    def __init__(self, takers: Callable[[], Sequence[Taker]]) -> None:
        self._takers = takers
        self._doors: list[socket.socket] = []
        self.opened = False
        """Whether connections were taken at all."""

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen, without taking any connection yet; return the first address."""
        self._doors = listening(host, port)
        address = self._doors[0].getsockname()
        return address[0], address[1]

    def open(self) -> None:
        """Begin to take connections."""
        self.opened = True
        self.resume()

    def resume(self) -> None:
        """Go on, if nobody took connections for a while."""
        if self.opened:
            for door in self._doors:
                asyncio.get_running_loop().add_reader(door, self._accept, door)

    def close(self) -> None:
        """Take no more connections."""
        self._rest()
        for door in self._doors:
            door.close()
        self._doors = []

    def _rest(self) -> None:
        for door in self._doors:
            asyncio.get_running_loop().remove_reader(door)

    def _accept(self, door: socket.socket) -> None:
        takers = self._takers()
        if not takers:  # those who come wait at the door until one serves again
            self._rest()
            return
        try:
            connection, _ = door.accept()
        except OSError as error:
            if error.errno in _FULL:
                LOG.warning("cannot take a connection: %s", error.strerror)
                self._rest()
                asyncio.get_running_loop().call_later(_FULL_PAUSE_S, self.resume)
            return
        with connection:
            any(taker.hand_over(connection) for taker in takers)
