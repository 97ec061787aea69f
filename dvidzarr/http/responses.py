"""Answers as DVID forms them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

import orjson
from aiohttp import web

from dvidzarr.core.errors import DvidzarrError
from dvidzarr.http.endpoint import Call
from dvidzarr.http.errors import BodyTimeoutError, PlainError, status_of

LOG = logging.getLogger("dvidzarr.http")

Bytes = bytes | bytearray | memoryview

PIECE_BYTES = 2 << 20
"""Stream piece: 1 to 4 MiB pieces reach several GB/s, one large body a fifth of it (measured)."""

_ERROR_TYPE = "text/plain; charset=utf-8"
_ERROR_HEADERS = {"X-Content-Type-Options": "nosniff"}


def empty() -> web.Response:
    """Return 200 without body and Content-Type: DVID's answer to a write."""
    return web.Response()


def go_json(value: object) -> bytes:
    r"""Encode as Go does: compact, with `<`, `>` and `&` as \u003c, \u003e and \u0026."""
    text = orjson.dumps(value)
    for raw, escaped in ((b"&", b"\\u0026"), (b"<", b"\\u003c"), (b">", b"\\u003e")):
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def json_value(value: object, content_type: str = "application/json") -> web.Response:
    """Return a value as compact JSON without trailing newline."""
    return web.Response(body=go_json(value), headers={"Content-Type": content_type})


def json_member(name: str, value: str) -> web.Response:
    """Return an object of one text member with a blank after the colon, as in DVID's `{"child": "…"}`."""
    body = b'{"%s": %s}' % (name.encode(), go_json(value))
    return web.Response(body=body, headers={"Content-Type": "application/json"})


def text(body: str, content_type: str = "text/plain") -> web.Response:
    """Return text."""
    return web.Response(body=body.encode(), headers={"Content-Type": content_type})


class _Joined(web.StreamResponse):
    """An answer whose headers go out with the first bytes of its body, in one system call."""

    _send_headers_immediately = False


class Octets(_Joined):
    """A body of known size."""

    def __init__(self, body: Bytes, content_type: str) -> None:
        super().__init__(headers={"Content-Type": content_type})
        self._octets = memoryview(body).cast("B")
        self.content_length = len(self._octets)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body."""
        request = self._req
        if len(self._octets) and request is not None and request.method != "HEAD":
            await self.write(self._octets)
            self._octets = memoryview(b"")
        await super().write_eof(data)


def octets(body: Bytes, content_type: str = "application/octet-stream") -> web.StreamResponse:
    """Return bytes at once; above about 1 MiB use `stream`."""
    return Octets(body, content_type)


def error_body(error: DvidzarrError, path: str) -> bytes:
    """Return the body of an error answer: DVID's `<message> (<path>).` and a newline."""
    message = error.text if isinstance(error, PlainError) else f"{error} ({path})."
    return message.encode("utf-8", "surrogateescape") + b"\n"


def failure(error: DvidzarrError, path: str) -> web.Response:
    """Return the answer to an error.

    A refused body is left unread on the connection, so the connection ends with the answer.
    """
    status = status_of(error)
    headers = dict(_ERROR_HEADERS)
    headers["Content-Type"] = error.content_type if isinstance(error, PlainError) else _ERROR_TYPE
    if status == 503:
        headers["Retry-After"] = "1"
    response = web.Response(status=status, body=error_body(error, path), headers=headers)
    if status == 413 or isinstance(error, BodyTimeoutError):
        response.force_close()
    return response


async def stream(
    call: Call,
    slabs: AsyncIterator[memoryview],
    length: int | None = None,
    content_type: str = "application/octet-stream",
    *,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> web.StreamResponse:
    """Send slabs of bytes as they come.

    Parameters
    ----------
    slabs : async iterator of memoryview
        Contiguous pieces of the body, any size. The first is awaited before the headers go out, so its
        failure is a proper error answer.
    length : int, optional
        Size of the whole body; None sends it chunked.
    headers : mapping, optional
        More headers; they win over `content_type`.

    Notes
    -----
    A failure after the headers aborts the connection: a client must never take a part for the whole.
    """
    first = await anext(slabs, None)
    own = {**call.headers, "Content-Type": content_type, **(headers or {})}
    response = _Joined(status=status, headers=own)
    response.content_length = length
    await response.prepare(call.request)
    if call.method == "HEAD":
        return response
    try:
        if first is not None:
            await _send(call, response, first)
        async for slab in slabs:
            await _send(call, response, slab)
    except ConnectionError:
        raise
    except Exception:
        LOG.exception("failed while streaming", extra={"path": call.path})
        abort(call.request)
    return response


def abort(request: web.BaseRequest) -> None:
    """Reset the connection of a request."""
    transport = request.transport
    if transport is not None:
        transport.abort()


async def _send(call: Call, response: web.StreamResponse, slab: memoryview) -> None:
    view = memoryview(slab).cast("B") if slab.nbytes else slab
    patience = call.runtime.settings.limits.send_timeout_s
    for start in range(0, slab.nbytes, PIECE_BYTES):
        async with asyncio.timeout(patience):
            await response.write(view[start : start + PIECE_BYTES])
