"""Receiving request bodies: into memory of a known size, never more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import numpy as np
from aiohttp import web

from dvidzarr.core.errors import InvalidInputError, TooLargeError
from dvidzarr.http.endpoint import Call
from dvidzarr.http.errors import BodyTimeoutError

_BLOCK = 1 << 20


async def pieces(call: Call) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises
    ------
    BodyTimeoutError
        Nothing came for the idle time allowed, or bytes drip. Only time spent waiting for the client counts.
    """
    await _accept(call.request)
    content = call.request.content
    limits = call.runtime.settings.limits
    idle, rate = limits.body_timeout_s, limits.body_min_rate
    plain = call.request.content_length is not None
    waited, total = 0.0, 0
    while True:
        asked = monotonic()
        try:
            async with asyncio.timeout(idle):
                # as it came; but the many small ones that chunked encoding may have are joined
                piece = (await content.readchunk())[0] if plain else await content.readany()
        except TimeoutError:
            raise BodyTimeoutError(f"no byte of the body arrived for {idle} s") from None
        except web.RequestPayloadError as error:
            raise InvalidInputError(f"malformed body: {error}") from None
        if not piece:
            return
        waited += monotonic() - asked
        total += len(piece)
        if waited > idle and total < rate * waited:
            raise BodyTimeoutError(f"the body came with less than {rate} bytes per second")
        yield piece


async def _accept(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (`Expect: 100-continue`) to send.

    Only handlers that want the body get here: what is refused before never crosses the wire.
    """
    if request.headers.get("Expect", "").lower() == "100-continue" and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def receive_exact(call: Call, size: int, message: Callable[[int], str]) -> np.ndarray:
    """Receive a body that must have exactly `size` bytes.

    Parameters
    ----------
    message
        Builds the text of the error from the number of bytes that came.

    Returns
    -------
    ndarray of uint8, one dimension
        Memory is taken as the bytes arrive (the pages of the array are touched first then).
    """
    check_size(call, size)
    declared = call.request.content_length
    if declared is not None and declared != size:
        raise InvalidInputError(message(declared))
    array = np.empty(size, np.uint8)
    received, surplus = await _fill(call, memoryview(array), size)
    if received + surplus != size:
        raise InvalidInputError(message(received + surplus))
    return array


async def receive_at_least(call: Call, size: int, message: str) -> np.ndarray:
    """Receive the first `size` bytes of a body, ignore the rest; `InvalidInputError(message)` if shorter."""
    check_size(call, size)
    declared = call.request.content_length
    if declared is not None and declared < size:
        raise InvalidInputError(message)
    array = np.empty(size, np.uint8)
    received, _ = await _fill(call, memoryview(array), call.runtime.settings.limits.max_request_bytes)
    if received < size:
        raise InvalidInputError(message)
    return array


async def receive_small(call: Call, limit: int | None = None) -> bytes:
    """Return a whole body of at most `limit` bytes (default: the limit for JSON)."""
    limit = call.runtime.settings.limits.max_json_bytes if limit is None else limit
    if (call.request.content_length or 0) > limit:
        raise TooLargeError(f"the body has {call.request.content_length} bytes, the limit is {limit}")
    parts: list[bytes] = []
    total = 0
    async for piece in pieces(call):
        total += len(piece)
        if total > limit:
            raise TooLargeError(f"the body has more than the limit of {limit} bytes")
        parts.append(piece)
    return b"".join(parts)


async def write_pieces(
    call: Call, write: Callable[[bytes], None], start: bytes, body: AsyncIterator[bytes]
) -> None:
    """Hand `start` and the rest of a body to a blocking function, in blocks of about 1 MiB.

    Raises
    ------
    TooLargeError
        The body exceeds the limit of this server.
    """
    parts, size, total = [start], len(start), len(start)
    async for piece in body:
        parts.append(piece)
        size += len(piece)
        total += len(piece)
        if size >= _BLOCK:
            check_size(call, total)
            await call.offload(write, b"".join(parts))
            parts, size = [], 0
    await call.offload(write, b"".join(parts))


def check_size(call: Call, size: int) -> None:
    """Raise `TooLargeError` if a body of this size is beyond the limit of this server."""
    limit = call.runtime.settings.limits.max_request_bytes
    largest = max(size, call.request.content_length or 0)
    if largest > limit:
        raise TooLargeError(f"a body of {largest} bytes exceeds the limit of {limit}")


async def _fill(call: Call, buffer: memoryview, limit: int) -> tuple[int, int]:
    """Fill the buffer; return (bytes in it, bytes beyond it). Stops early when the body exceeds `limit`."""
    position = 0
    surplus = 0
    async for piece in pieces(call):
        take = min(len(piece), len(buffer) - position)
        buffer[position : position + take] = piece[:take] if take < len(piece) else piece
        position += take
        surplus += len(piece) - take
        if surplus and position + surplus > limit:
            break
    return position, surplus
