"""Connections before they are served, and those that go to another process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from dvidzarr.server.eventloop import event_loop
from dvidzarr.server.listening import handed_on, prepared

Check = Callable[[asyncio.Transport, socket.socket], Awaitable[None]]


@pytest.fixture(params=[event_loop(), asyncio.new_event_loop])
def with_connection(request: pytest.FixtureRequest) -> Callable[[Check], None]:
    """Return what calls a function with both ends of a connection, once for each kind of event loop."""

    async def main(check: Check) -> None:
        accepted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.set_result(transport)  # type: ignore[arg-type]  # uvloop's is no subclass

        door = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        with socket.create_connection(door.sockets[0].getsockname(), timeout=60) as client:
            await check(await accepted, client)
        door.close()

    def run(check: Check) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main(check))

    return run


def test_a_connection_that_was_handed_on_lives_on(with_connection: Callable[[Check], None]) -> None:
    taken: list[socket.socket] = []

    async def check(transport: asyncio.Transport, client: socket.socket) -> None:
        assert handed_on(transport, lambda link: taken.append(link.dup()) is None)
        transport.abort()
        await asyncio.sleep(0.05)
        with taken[0] as copy:
            copy.sendall(b"still here")
        assert client.recv(100) == b"still here"

    with_connection(check)


def test_a_connection_that_has_ended_goes_nowhere(with_connection: Callable[[Check], None]) -> None:
    async def check(transport: asyncio.Transport, _: socket.socket) -> None:
        transport.abort()
        await asyncio.sleep(0.05)
        assert not handed_on(transport, lambda _: pytest.fail("something was handed on"))
        transport.resume_reading()  # what its owner does then: nothing

    with_connection(check)


@pytest.mark.parametrize(("source", "is_near"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_little_waits_in_the_kernel_for_clients_on_the_same_machine(source: str, *, is_near: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        try:
            client = socket.create_connection(door.getsockname(), timeout=60, source_address=(source, 0))
        except OSError as error:
            pytest.skip(f"{source} is no address of this machine: {error}")
        link, _ = door.accept()
    with link, client:
        ends = {"socket": link, "peername": link.getpeername(), "sockname": link.getsockname()}
        untouched = link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert prepared(asyncio.BaseTransport(ends)) == source
        room = link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert room <= 1 << 20 if is_near else room == untouched
