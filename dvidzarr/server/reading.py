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
    from dvidzarr.core.settings import LimitSettings
    from dvidzarr.http.writer import Writer

_ONLY_ONCE = ("host", "content-length", "transfer-encoding")

_SLICE = 4 << 10
"""Bytes that are parsed at once: what is parsed cannot wait in the kernel any more."""

_MOST_HEADERS = 256
_HEAD_LINES = 8
"""The request line and all headers may have so many times the bytes that one header may have."""

_HEADER_EXTRA = len(": \r\n")


class Owner(Source, Protocol):
    """The connection that is read from."""

    def begun(self) -> None:
        """Note the first byte of a request."""

    def take(self, request: Request) -> None:
        """Queue a request whose headers are complete."""

    def parsed(self) -> bool:
        """Go on with what was queued; tell whether more may be read."""

    def body_ended(self) -> None:
        """Note that the body of the last request taken is whole."""

    def refuse(self, error: PlainError) -> None:
        """Take no more: what comes next cannot be read."""


class Reader:
    """The requests of one connection. Lives on one event loop.

    Attributes
    ----------
    body
        The body that is being read.
    closed
        Whether no more requests are taken; `body` is read to its end.
    """

    def __init__(
        self, owner: Owner, limits: "LimitSettings", buffer: memoryview, writer: "Writer", peer: str
    ) -> None:
        self.body: Body | None = None
        self.closed = False
        self._owner = owner
        self._line_bytes = limits.max_line_bytes
        self._head_limit = _HEAD_LINES * limits.max_line_bytes
        self._buffer = buffer
        self._writer = writer
        self._peer = peer
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._rest: bytes | memoryview = b""
        self._busy = False
        self._room: memoryview | None = None
        self._past_parser = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._trailer_bytes = 0

    @property
    def in_head(self) -> bool:
        """Whether a request has begun whose headers are not complete."""
        return self._head_bytes > 0

    @property
    def has_more(self) -> bool:
        """Whether bytes are here that were not read yet, but for those of a body of known size."""
        return bool(self._rest) and not self._past_parser

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
            self._check_end(body)
            return
        here = self._buffer[:size]
        self._rest = bytes(self._rest) + here if self._rest else here
        try:
            self.read_on()
        finally:
            self._rest = bytes(self._rest)  # the buffer is everybody's

    def read_on(self) -> None:
        """Read what is here, as far as the owner takes requests."""
        if self._busy:  # called by what is called below
            return
        self._busy = True
        try:
            while self._rest:
                self._pass_body()
                if self.closed and self.body is None:
                    self._rest = b""
                elif self._rest:
                    self._parse()
                    if self.body is not None and len(self._rest) >= self.body.missing:
                        self._pass_body()  # else it goes straight to who begins to take it now
                if not self._owner.parsed():
                    return
        finally:
            self._busy = False

    def lose(self) -> None:
        """Note that no more bytes will come."""
        self.closed = True
        self._parser, self._rest, self._headers = None, b"", {}  # the parser refers to this object
        if self.body is not None:
            self.body.fail(ConnectionResetError("the client left"))

    def _pass_body(self) -> None:
        """Hand on what belongs to a body of known size."""
        body = self.body
        if self._past_parser and body is not None and self._rest:
            piece = self._rest[: body.missing]
            self._rest = self._rest[len(piece) :]
            body.feed(piece)
            self._check_end(body)

    def _check_end(self, body: Body) -> None:
        if not body.missing:
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for this body
            self._end_body()

    def _parse(self) -> None:
        data, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = bytes(data[upgrade.args[0] :]) + self._rest
            self._pass_upgrade()
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, PlainError):
                raise
            self._refuse(error.__context__, str(error.__context__))
        except httptools.HttpParserError as error:
            self._refuse(PlainError(400, f"400 Bad Request: {error}"), str(error))
        else:
            self._past_parser = self.body is not None and self.body.declared is not None
            if self.in_head:
                self._head_bytes += len(data)
                if self._head_bytes > self._head_limit:
                    self._refuse(_too_large("the request line and the headers have", self._head_limit), "")

    def _pass_upgrade(self) -> None:
        """Go on as if no other protocol had been proposed; the parser left the body, if there is one, where it is."""
        self._parser = httptools.HttpRequestParser(self)
        self._past_parser = self.body is not None
        if self.body is not None and self.body.declared is None:
            self._refuse(PlainError(400, "400 Bad Request"), "a chunked body cannot follow an upgrade")

    def _refuse(self, error: PlainError, why: str) -> None:
        self.closed = True
        self._parser, self._rest = None, b""
        if self.body is not None:
            self.body.fail(InvalidInputError(f"malformed body: {why}"))
        self._owner.refuse(error)

    # --- what the parser calls -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._owner.begun()
        self._url = b""
        self._headers = {}
        self._head_bytes, self._trailer_bytes = 1, 0

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._url += part
        # the query may be as long as the whole head: lists of blocks are long
        if len(self._url) > self._line_bytes and self._url.find(b"?", 0, self._line_bytes) < 0:
            raise _too_large("the path has", self._line_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those that follow a body are left alone."""
        size = len(name) + len(value)
        if size > self._line_bytes:
            raise _too_large("a header has", self._line_bytes)
        if not self.in_head:
            self._trailer_bytes += size + _HEADER_EXTRA
            if self._trailer_bytes > self._head_limit:
                raise _too_large("what follows the body has", self._head_limit)
            return
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape")
        if key in self._headers:
            if key in _ONLY_ONCE:
                raise PlainError(400, f"400 Bad Request: the header {key} stands twice")
            text = f"{self._headers[key]}, {text}"
        elif len(self._headers) >= _MOST_HEADERS:
            raise PlainError(431, f"there are more than {_MOST_HEADERS} headers")
        if len(text) > self._line_bytes:
            raise _too_large(f"the header {key} has", self._line_bytes)
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Hand the request over; its body follows."""
        parser, headers = self._parser, self._headers
        if self.closed or parser is None:
            return
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise PlainError(400, f"400 Bad Request: HTTP/{version} is not spoken here")
        encoding = headers.get("transfer-encoding")
        if encoding is not None and encoding.lower() != "chunked":
            raise PlainError(400, f"400 Bad Request: the transfer encoding {encoding!r} is not spoken here")
        self._head_bytes = 0
        length = None if encoding is not None else int(headers.get("content-length") or 0)
        is_old = version == "1.0"
        expected = not is_old and headers.get("expect", "").lower() == "100-continue"
        self.body = Body(self._owner, length, expected=expected)
        method = parser.get_method().decode("ascii")
        request = Request(
            method,
            self._url.decode("utf-8", "surrogateescape"),
            headers,
            self.body,
            self._writer,
            self._peer,
            keep_alive=parser.should_keep_alive() and method != "CONNECT",
            is_old=is_old,
        )
        self._owner.take(request)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.body is not None:
            self.body.feed(data)

    def on_message_complete(self) -> None:
        """End the body, unless it follows what the parser takes for the end."""
        upgrade = self._parser is not None and self._parser.should_upgrade()
        if self.body is not None and (not upgrade or self.body.whole):
            self._end_body()

    def _end_body(self) -> None:
        if self.body is not None:
            body, self.body = self.body, None
            self._past_parser = False
            body.end()
            self._owner.body_ended()


def _too_large(what: str, limit: int) -> PlainError:
    return PlainError(431, f"{what} more than {limit} bytes")
