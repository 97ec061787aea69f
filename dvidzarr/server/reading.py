"""Bytes to requests. The grammar of HTTP/1.1 is llhttp's (by `httptools`), which refuses what could be read in two ways.

Bodies of known size go past the parser, and straight into the memory of who waits for them.
"""

from typing import TYPE_CHECKING, Protocol

import httptools

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.errors import PlainError
from dvidzarr.http.incoming import Body, Source
from dvidzarr.http.request import Request

if TYPE_CHECKING:
    from dvidzarr.http.writer import Writer
    from dvidzarr.server.httpserver import Limits

_ONLY_ONCE = ("host", "content-length", "transfer-encoding")


class Owner(Source, Protocol):
    """The connection that is read from."""

    def begun(self) -> None:
        """Note the first byte of a request."""

    def take(self, request: Request) -> None:
        """Answer a request whose headers are complete."""

    def body_ended(self) -> None:
        """Note that the body of the last request taken is whole."""

    def refuse(self, error: PlainError | None) -> None:
        """Take no more: what comes next cannot be read, or (None) is of a protocol that is not spoken here."""


class Reader:
    """The requests of one connection. Lives on one event loop.

    Attributes
    ----------
    body
        The body that is being read.
    closed
        Whether bytes are left alone from now on, but for those of `body`.
    """

    def __init__(
        self, owner: Owner, limits: "Limits", buffer: memoryview, writer: "Writer", peer: str
    ) -> None:
        self.body: Body | None = None
        self.closed = False
        self._owner = owner
        self._limits = limits
        self._buffer = buffer
        self._writer = writer
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._room: memoryview | None = None
        self._past_parser = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0

    @property
    def in_head(self) -> bool:
        """Whether a request has begun whose headers are not complete."""
        return self._head_bytes > 0

    # --- bytes -----------------------------------------------------------------------------------------------

    def room(self) -> memoryview:
        """Return where the next bytes shall lie."""
        self._room = self.body.room() if self._past_parser and self.body is not None else None
        return self._buffer if self._room is None else self._room

    def took(self, size: int) -> None:
        """Read the bytes that were put there."""
        body = self.body
        if self._room is not None and body is not None:
            body.fill_room(size)
            self._room = None
            if not body.missing:
                self._end_past_parser()
            return
        data = bytes(self._buffer[:size])
        if self._past_parser and body is not None:
            missing = body.missing
            body.feed(data[:missing])
            if size < missing:
                return
            self._end_past_parser()
            data = data[missing:]
        if data and not self.closed:
            self._parse(data)

    def lose(self) -> None:
        """Note that no more bytes will come."""
        self.closed = True
        if self.body is not None:
            self.body.fail(ConnectionResetError("the client left"))

    def _end_past_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)  # the old one still waits for this body
        self.on_message_complete()

    def _parse(self, data: bytes) -> None:
        self._owner.begun()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._close(None)  # the request itself is answered
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._close(cause if isinstance(cause, PlainError) else _malformed(error))
        except httptools.HttpParserError as error:
            self._close(_malformed(error))
        else:
            self._past_parser = self.body is not None and self.body.declared is not None
            if self.in_head:
                self._head_bytes += len(data)
                self._check_head()

    def _check_head(self) -> None:
        limit = self._limits.head_bytes
        if self._head_bytes > limit:
            self._close(PlainError(431, f"the headers have more than {limit} bytes"))

    def _close(self, error: PlainError | None) -> None:
        self.closed = True
        if self.body is not None and error is not None:
            self.body.fail(InvalidInputError(f"malformed body: {error}"))
        self._owner.refuse(error)

    # --- what the parser calls -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers = {}
        self._head_bytes = 1

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._url += part
        if len(self._url) > self._limits.line_bytes:
            raise PlainError(431, f"the target has more than {self._limits.line_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if len(name) + len(value) > self._limits.line_bytes:
            raise PlainError(431, f"a header has more than {self._limits.line_bytes} bytes")
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape")
        if key in self._headers:
            if key in _ONLY_ONCE:
                raise PlainError(400, f"400 Bad Request: the header {key} stands twice")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Hand the request over; its body follows."""
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise PlainError(400, f"400 Bad Request: HTTP/{version} is not spoken here")
        self._head_bytes = 0
        length = None if "transfer-encoding" in headers else int(headers.get("content-length") or 0)
        expected = headers.get("expect", "").lower() == "100-continue"
        body = self.body = Body(self._owner, length, expected=expected)
        request = Request(
            parser.get_method().decode("ascii"),
            self._url.decode("utf-8", "surrogateescape"),
            headers,
            body,
            self._writer,
            self._peer,
            keep_alive=parser.should_keep_alive(),
            is_old=version == "1.0",
        )
        self._owner.take(request)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.body is not None:
            self.body.feed(data)

    def on_message_complete(self) -> None:
        """End the body."""
        if self.body is not None:
            body, self.body = self.body, None
            self._past_parser = False
            body.end()
            self._owner.body_ended()


def _malformed(error: Exception) -> PlainError:
    return PlainError(400, f"400 Bad Request: {error}")
