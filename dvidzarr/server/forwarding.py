"""Requests that another process must answer: handed on over its private socket, bodies and answers as they flow.

Which those are the dispatcher decides. Nothing is buffered beyond what is on its way: a slow
client slows the other process down, one that leaves ends the request there. A body that has not arrived yet is announced
(`Expect: 100-continue`) and read when the other process wants it: what is refused before is never asked of the client.
"""

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote_from_bytes

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    UnixConnector,
    hdrs,
)
from yarl import URL

from dvidzarr.http.body import pieces
from dvidzarr.http.endpoint import Call
from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import REQUEST_ID, Request
from dvidzarr.http.response import Response
from dvidzarr.server.eventloop import in_task
from dvidzarr.server.paths import target_of

_BUFFER = 1 << 20
_IDLE_S = 15.0  # the other side waits longer, so that it never closes a connection that is about to be used
_CONNECT_S = 10.0

_AUTOMATIC = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE)
"""What the session would add to requests that lack it."""

_HOP = frozenset(
    name.lower()
    for name in (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.EXPECT, hdrs.UPGRADE, hdrs.TE)
)
"""Headers that concern one connection only."""

_RENEWED = _HOP | {hdrs.CONTENT_LENGTH.lower(), hdrs.DATE.lower()}
"""Headers that are written anew where the body is here, or passes."""

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")


class Home:
    """The process that writes, as the others reach it. Lives on one event loop."""

    def __init__(self, path: str) -> None:
        self._session = ClientSession(
            connector=UnixConnector(path, limit=0, keepalive_timeout=_IDLE_S),
            timeout=ClientTimeout(total=None, sock_connect=_CONNECT_S),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER,
            skip_auto_headers=_AUTOMATIC,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def forward(self, call: Call) -> Response:
        """Have the request answered there and send the answer on.

        Raises
        ------
        PlainError
            502: it is gone; whether the request was done cannot be known.
        """
        await in_task()  # the session has timeouts
        body = _Body(call)
        request = call.request
        arrived = request.body.arrived()
        try:
            async with self._session.request(
                request.method,
                _url(request),
                headers=_without(_HOP if arrived is None else _RENEWED, request.headers)
                | {REQUEST_ID: request.identity},
                data=body.pieces() if arrived is None else arrived,
                chunked=True if arrived is None and request.body.declared is None else None,
                expect100=arrived is None,
                allow_redirects=False,
            ) as answer:
                response = Response(status=answer.status, headers=_without(_RENEWED, answer.headers))
                # a body that was refused lies unread on the client's connection
                response.close = answer.headers.get(hdrs.CONNECTION, "").lower() == "close"
                await _send(call, response, answer)
                return response
        except ClientError as error:
            if body.failure is None:
                raise PlainError(502, "the process that writes ended before it answered") from error
        # the session's error has it as its cause: raised there, it would become a cause of itself
        raise body.failure


class _Body:
    """The body of a request, and why it ended early: the client session hides the reason."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.failure: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes | bytearray]:
        """Yield the body as it arrives."""
        try:
            async for piece in pieces(self._call):
                yield piece
        except Exception as error:
            self.failure = error
            raise


async def _send(call: Call, response: Response, answer: ClientResponse) -> None:
    length = answer.headers.get(hdrs.CONTENT_LENGTH)
    response.begin(call.request, None if length is None else int(length))
    try:
        async for piece in answer.content.iter_any():
            await response.write(piece)
    except ClientError as error:  # the answer was cut off: its client must not take a part for the whole
        raise ConnectionAbortedError from error


def _url(request: Request) -> URL:
    """Return the target as it came; bytes that no URL may hold are escaped, which means the same."""
    path, query = target_of(request), request.target.partition("?")[1:]
    raw = (path + "".join(query)).encode("utf-8", "surrogateescape")
    return URL(f"http://localhost{quote_from_bytes(raw, safe=_PRINTABLE)}", encoded=True)


def _without(names: frozenset[str], headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in names}
