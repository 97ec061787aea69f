"""A request that the end of another one begins has a task, and so time limits, of its own."""

import asyncio

from dvidzarr.core.errors import BusyError
from dvidzarr.core.settings import Settings
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response
from dvidzarr.server.admission import Admission
from dvidzarr.server.httpserver import ConnectionCounts, HttpServer

WAIT_S = 0.1
PATIENCE_S = 10.0


def test_the_second_of_two_requests_is_turned_away_in_time() -> None:
    admission = Admission(1000, WAIT_S)

    async def answer(request: Request) -> None:
        if request.path == "/first":
            await asyncio.sleep(WAIT_S)
            Response().send(request)
            return
        try:
            async with admission.admit(1000):
                Response().send(request)
        except BusyError:
            Response(status=503).send(request)

    async def main() -> bytes:
        server = HttpServer(answer, ConnectionCounts(10), Settings.load(env={}).limits, "test")
        door = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        async with door, admission.admit(1000):
            reader, writer = await asyncio.open_connection(*door.sockets[0].getsockname())
            for path in ("/first", "/second"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            writer.write_eof()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await reader.read()
            finally:
                writer.close()
                await server.shutdown(0)

    answers = asyncio.run(main())
    assert answers.count(b"HTTP/1.1 200 ") == 1
    assert answers.count(b"HTTP/1.1 503 ") == 1
