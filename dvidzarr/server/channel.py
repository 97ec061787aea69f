"""The line between the supervisor of a server and one of its processes.

Connections and words go down; reports come up, and connections that another process shall have.

Its end means the end of the one at the other end: a process that loses its supervisor finishes what runs and exits, a
supervisor that loses a process replaces it. The kernel sees to that whatever happened to them.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

CONNECTION, MOVED, DRAIN, FINISH = b"\0", b"m", b"d", b"f"
"""What goes down, one byte each: here is a connection; here is one that was used already; say that you will stop; finish
what runs, take nothing new. The first one goes up, too: no JSON text holds that byte."""

_AT_ONCE = 64
_LINE_BYTES = 1 << 16


class Channel:
    """One end. Created blocking; `attend` and `listen` make it a part of the event loop."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = b""

    def close(self) -> None:
        """Close this end."""
        if self._socket.fileno() >= 0:
            self._socket.close()

    def shut(self) -> None:
        """Tell the other end that this one is done; it may still report."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def hand_over(self, connection: socket.socket, *, moved: bool = False) -> bool:
        """Give a connection away; False if the other end is gone or does not take any more."""
        try:
            socket.send_fds(self._socket, [MOVED if moved else CONNECTION], [connection.fileno()])
        except OSError:
            return False
        return True

    # --- lines of JSON, both ways ----------------------------------------------------------------------------

    def say(self, **facts: Any) -> None:  # noqa: ANN401
        """Send an object."""
        self._socket.sendall(orjson.dumps(facts) + b"\n")

    def hear(self) -> dict[str, Any]:
        """Wait for an object: what a new process begins with."""
        while b"\n" not in self._received:
            piece = self._socket.recv(1)  # not a byte more: what follows may carry connections
            if not piece:
                raise EOFError("the supervisor is gone")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        heard: dict[str, Any] = orjson.loads(line)
        return heard

    # --- the supervisor's end --------------------------------------------------------------------------------

    def tell(self, word: bytes) -> None:
        """Send a word; one that cannot be sent is for a process that is gone or stuck."""
        try:
            self._socket.send(word)
        except OSError:
            return

    def listen(
        self,
        heard: Callable[[dict[str, Any]], None],
        take: Callable[[socket.socket], None],
        gone: Callable[[], None],
    ) -> None:
        """Call `heard` with each report, `take` with each connection, and `gone` once at the end."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _LINE_BYTES, _AT_ONCE)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                loop.remove_reader(self._socket)
                gone()
                return
            for connection in _connections(descriptors):
                take(connection)
            *lines, self._received = (self._received + data.replace(CONNECTION, b"")).split(b"\n")
            for line in lines:
                heard(orjson.loads(line))

        loop.add_reader(self._socket, read)

    # --- the process's end -----------------------------------------------------------------------------------

    def attend(
        self,
        take: Callable[[socket.socket, bool], None],
        told: Callable[[bytes], None],
        gone: Callable[[], None],
    ) -> None:
        """Call `take` with each connection and whether it was moved, `told` with each other word, `gone` once at the end."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()

        def read() -> None:
            for _ in range(_AT_ONCE):
                try:
                    word, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
                except BlockingIOError:
                    return
                except OSError:
                    word, descriptors = b"", []
                if not word:
                    loop.remove_reader(self._socket)
                    gone()
                    return
                for connection in _connections(descriptors):
                    take(connection, word == MOVED)
                if not descriptors:
                    told(word)

        loop.add_reader(self._socket, read)


def _connections(descriptors: Iterable[int]) -> Iterator[socket.socket]:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        yield socket.socket(fileno=descriptor)
