"""The sockets of a server: where it takes connections, and those connections before and after it serves them."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from dvidzarr.core.errors import BusyError, StorageError

Ready = Callable[[str, int], None]
"""Called with the address and port once the server answers."""

HandOn = Callable[[socket.socket], bool]
"""Gives a copy of a connection to another process; False if that cannot be done."""

BACKLOG = 1024
"""Connections that may wait to be taken."""

_NEAR_BYTES = 512 << 10
"""So much of an answer to this machine waits in the kernel (which doubles it, and may allow less). Such a client
acknowledges at once: what lies further ahead only drives what is made next out of the processor's cache (256³ takes 0.7 of
the time, measured). Client and server then take turns, a megabyte each; with a little more than that, or half of it, each
copies while the other does, and 128³ takes 1.1 to 1.2 times the time.
"""


def listening(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of a host; port 0 takes a free one.

    Raises
    ------
    BusyError
        The port is taken, or not allowed.
    StorageError
        There is no such address.
    """
    sockets: list[socket.socket] = []
    try:
        places = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(places):
            sockets.append(_listen(socket.socket(family, kind, protocol), address))
    except OSError as error:
        for each in sockets:
            each.close()
        raise refusal(host, port, error) from error
    return sockets


def refusal(host: str, port: int | None, error: OSError) -> BusyError | StorageError:
    """Return what to raise when listening fails."""
    message = f"cannot listen on {host} port {port}: {error.strerror or error}"
    return (BusyError if error.errno in (errno.EADDRINUSE, errno.EACCES) else StorageError)(message)


def _listen(door: socket.socket, address: object) -> socket.socket:
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if door.family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        door.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        door.listen(BACKLOG)
        door.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door


def url_of(host: str, port: int) -> str:
    """Return the URL of a server at an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def prepared(transport: asyncio.BaseTransport) -> str:
    """Have the kernel notice clients that vanish, and hold little for near ones; return the address, "" on a Unix socket."""
    link = transport.get_extra_info("socket")
    if link is None or link.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer = transport.get_extra_info("peername")
    own = transport.get_extra_info("sockname")
    if peer and own and peer[0] == own[0]:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _NEAR_BYTES)
    return str(peer[0]) if peer else ""


def handed_on(transport: asyncio.BaseTransport, hand_on: HandOn) -> bool:
    """Give another process a connection, which this one is to close then; False if it must keep it, or it has ended."""
    if transport.is_closing():
        return False
    try:
        copy = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    except OSError:  # no descriptor is left
        return False
    with copy:
        return hand_on(copy)
