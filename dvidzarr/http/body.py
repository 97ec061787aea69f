"""Receiving request bodies: into memory of a known size, never more."""

from collections.abc import AsyncIterator, Callable

import numpy as np

from dvidzarr.core.errors import InvalidInputError, TooLargeError
from dvidzarr.http.endpoint import Call

_BLOCK = 1 << 20


async def pieces(call: Call) -> AsyncIterator[bytes | bytearray]:
    """Yield the body as it arrives. Raises as `Body.piece`."""
    body = call.request.body
    while piece := await body.piece():
        yield piece


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
    body = call.request.body
    if body.declared is not None and body.declared != size:
        raise InvalidInputError(message(body.declared))
    array = np.empty(size, np.uint8)
    received = await body.fill(memoryview(array))
    received += await _surplus(call, 0)
    if received != size:
        raise InvalidInputError(message(received))
    return array


async def receive_at_least(call: Call, size: int, message: str) -> np.ndarray:
    """Receive the first `size` bytes of a body, ignore the rest; `InvalidInputError(message)` if shorter."""
    check_size(call, size)
    body = call.request.body
    if body.declared is not None and body.declared < size:
        raise InvalidInputError(message)
    array = np.empty(size, np.uint8)
    if await body.fill(memoryview(array)) < size:
        raise InvalidInputError(message)
    await _surplus(call, call.runtime.settings.limits.max_request_bytes - size)
    return array


async def receive_small(call: Call, limit: int | None = None) -> bytes:
    """Return a whole body of at most `limit` bytes (default: the limit for JSON)."""
    limit = call.runtime.settings.limits.max_json_bytes if limit is None else limit
    declared = call.request.body.declared or 0
    if declared > limit:
        raise TooLargeError(f"the body has {declared} bytes, the limit is {limit}")
    parts: list[bytes | bytearray] = []
    total = 0
    async for piece in pieces(call):
        total += len(piece)
        if total > limit:
            raise TooLargeError(f"the body has more than the limit of {limit} bytes")
        parts.append(piece)
    return b"".join(parts)


async def write_pieces(
    call: Call, write: Callable[[bytes], None], start: bytes, body: AsyncIterator[bytes | bytearray]
) -> None:
    """Hand `start` and the rest of a body to a blocking function, in blocks of about 1 MiB.

    Raises
    ------
    TooLargeError
        The body exceeds the limit of this server.
    """
    parts: list[bytes | bytearray] = [start]
    size = total = len(start)
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
    largest = max(size, call.request.body.declared or 0)
    if largest > limit:
        raise TooLargeError(f"a body of {largest} bytes exceeds the limit of {limit}")


async def _surplus(call: Call, limit: int) -> int:
    """Receive what comes beyond what is wanted; return its size, or stop early when it exceeds `limit`."""
    surplus = 0
    async for piece in pieces(call):
        surplus += len(piece)
        if surplus > limit:
            break
    return surplus
