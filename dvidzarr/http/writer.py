"""The way to a client: bytes go to the transport, and whoever sends faster than the client reads waits."""

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from dvidzarr.http.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer


class Writer:
    """The sending side of one connection. Lives on one event loop.

    Attributes
    ----------
    full
        Whether the transport holds enough: time to `drain`.
    sent
        Bytes handed to the transport, or sent without it.
    """

    __slots__ = ("_room", "_transport", "full", "sent")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.sent = 0
        self.full = False
        self._transport = transport
        self._room: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def outlet(self) -> Outlet | None:
        """Return the way for a thread, which must be done before the loop sends more; `ConnectionResetError` as `write`.

        None while the transport has something to send, or if no descriptor is left.
        """
        if self.closed:
            raise ConnectionResetError("the client left")
        if self._transport.get_write_buffer_size():
            return None
        try:
            link = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        except OSError:
            return None
        return Outlet(link, self)

    def write(self, pieces: "Iterable[Buffer]", size: int) -> None:
        """Send pieces of together `size` bytes; `ConnectionResetError` if the client left."""
        if self.closed:
            raise ConnectionResetError("the client left")
        self.sent += size
        self._transport.writelines(pieces)  # type: ignore[arg-type]  # any buffer does

    async def drain(self) -> None:
        """Wait until the transport takes more; `ConnectionResetError` if the client left, or was given up."""
        if not self.full:
            return
        self._room = asyncio.get_running_loop().create_future()
        await self._room
        if self.closed:
            raise ConnectionResetError("the client left")

    def pause(self) -> None:
        """Note that the transport holds enough."""
        self.full = True

    def resume(self) -> None:
        """Note that the transport takes more, or nothing any more."""
        self.full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def invite(self) -> None:
        """Tell a client that waits for it (`Expect: 100-continue`) to send its body."""
        if not self.closed:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abort()
