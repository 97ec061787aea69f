"""An answer on its way to the wire."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING
from wsgiref.handlers import format_date_time

if TYPE_CHECKING:
    from dvidzarr.http.request import Request

Bytes = bytes | bytearray | memoryview

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS = (204, 304)
_JOINED_BYTES = 16 << 10
"""Bodies up to so large are copied behind their headers: cheaper than to send two pieces."""


class Response:
    """Status, headers and body, which is given whole or goes out in pieces: `begin`, `write` and, in the end, `send`.

    Attributes
    ----------
    status
        HTTP status.
    headers
        By name as sent, in the usual letter case. Content-Length, Connection, Date and Transfer-Encoding are added.
    body
        The whole body, or pieces of it that lie apart in memory, unless it goes out piece by piece.
    close
        Whether the connection must end with this answer.
    begun
        Whether its headers are on their way.
    sent
        Bytes of the body that were given to be sent.
    """

    __slots__ = (
        "_chunked",
        "_head",
        "_length",
        "_request",
        "begun",
        "body",
        "close",
        "headers",
        "sent",
        "status",
    )

    def __init__(
        self,
        body: Bytes | Sequence[Bytes] = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.headers: dict[str, str] = dict(headers) if headers else {}
        self.body = body
        self.close = False
        self.begun = False
        self.sent = 0
        self._chunked = False
        self._length: int | None = None
        self._head = b""
        self._request: Request | None = None

    def send(self, request: "Request") -> None:
        """Send it whole, or end an answer in pieces; `ConnectionResetError` if the client left."""
        if self.begun:
            self._finish()
            return
        parts = (self.body,) if isinstance(self.body, Bytes) else self.body
        body = [memoryview(part).cast("B") for part in parts if part]
        size = sum(map(len, body))
        # by HEAD, nothing is no length: what GET would send is not known here
        untold = self.status in _BODILESS or (not size and request.method == "HEAD")
        self._start(request, None if untold else size)
        head = self._head
        if not size or request.method == "HEAD":
            request.writer.write((head,), len(head))
            return
        self.sent = size
        pieces: Sequence[Bytes] = (b"".join((head, *body)),) if size <= _JOINED_BYTES else (head, *body)
        request.writer.write(pieces, len(head) + size)

    def begin(self, request: "Request", length: int | None) -> None:
        """Fix the headers, which go out with the first piece; without a length the body is chunked."""
        self._chunked = length is None and self.status not in _BODILESS
        self._length = length
        self._start(request, length)

    async def write(self, piece: Bytes) -> None:
        """Send a piece of the body, and wait while the client lags behind. Raises as `Writer.drain`."""
        writer = self._begun().writer
        pieces = self.framed(piece)
        if pieces:
            writer.write(pieces, sum(map(len, pieces)))
            await writer.drain()

    def framed(self, piece: Bytes) -> tuple[memoryview, ...]:
        """Return what is to be sent for the next piece of the body: the headers before the first; its size if chunked."""
        piece = memoryview(piece).cast("B") if piece else piece
        size = len(piece)
        if not size or self._begun().method == "HEAD":
            return ()
        head, self._head = self._head, b""
        self.sent += size
        parts = (head, b"%x\r\n" % size, piece, b"\r\n") if self._chunked else (head, piece)
        return tuple(memoryview(part) for part in parts if part)

    def _finish(self) -> None:
        request = self._begun()
        if self._length not in (None, self.sent) and request.method != "HEAD":
            raise RuntimeError(f"an answer of {self._length} bytes ended after {self.sent}")
        end = self._head + (b"0\r\n\r\n" if self._chunked and request.method != "HEAD" else b"")
        self._head, self._chunked = b"", False
        if end:
            request.writer.write((end,), len(end))

    def _begun(self) -> "Request":
        if self._request is None:
            raise RuntimeError("the answer has not begun")
        return self._request

    def _start(self, request: "Request", length: int | None) -> None:
        self._request = request
        if self._chunked and request.is_old:  # it ends with the connection
            self._chunked, self.close = False, True
        # The rest of a body that will not come cannot be told from the next request. Never set it: the loop may take
        # it away while a thread is here.
        if self.close or request.body.is_lost:
            request.keep_alive = False
        text = _head_text(self.status, tuple(self.headers.items()))
        if length is not None:
            text = f"{text}Content-Length: {length}\r\n"
        elif self._chunked:
            text += "Transfer-Encoding: chunked\r\n"
        if not request.keep_alive:
            text += "Connection: close\r\n"
        elif request.is_old:
            text += "Connection: keep-alive\r\n"
        text += _date_line(int(time.time()))
        self._head = (text + "\r\n").encode("utf-8", "surrogateescape")
        self.begun = request.begun = True


@lru_cache(maxsize=256)
def _head_text(status: int, headers: tuple[tuple[str, str], ...]) -> str:
    """Return the status line and headers that an answer names; most answers have those of another one."""
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError(f"a line break in the headers of an answer: {headers!r}")
    return text


@lru_cache(maxsize=2)
def _date_line(now: int) -> str:
    return f"Date: {format_date_time(now)}\r\n"
