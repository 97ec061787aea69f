"""Answers made on the pool while they are sent: small ones whole, larger ones as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

from aiohttp import web

from dvidzarr.http.endpoint import Call
from dvidzarr.http.responses import stream

BLOCK = 1 << 20
"""Pieces are gathered until they have so many bytes; a smaller answer is one body."""

_BLOCKS = 4  # one gathered, one joined, one sent, one in the transport


async def gathered(
    call: Call,
    pieces: Iterator[bytes],
    content_type: str = "application/octet-stream",
    *,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> web.StreamResponse:
    """Send bytes that a blocking iterator yields.

    A failure before `BLOCK` bytes is an error answer; a later one aborts the connection.

    Parameters
    ----------
    length
        Size of the whole, if known; else a long answer goes out chunked.
    """
    blocks = _blocks(pieces)
    more = {**(headers or {}), "Content-Type": content_type}
    async with call.runtime.admit(_BLOCKS * BLOCK):
        first, whole = await call.offload(next, blocks)
        if whole:
            return web.Response(status=status, body=first, headers=more)
        async with aclosing(_ahead(call, first, blocks)) as rest:
            return await stream(call, rest, length, headers=more, status=status)


def _blocks(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield (block, whether it is the last)."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield b"".join(parts), False
            parts, size = [], 0
    yield b"".join(parts), True


async def _ahead(
    call: Call, first: bytes, blocks: Iterator[tuple[bytes, bool]]
) -> AsyncGenerator[memoryview, None]:
    """Yield the blocks; the next is made while one is sent."""
    block, last = first, False
    pending = asyncio.ensure_future(call.offload(next, blocks))
    try:
        while not last:
            yield memoryview(block)
            block, last = await pending
            if not last:
                pending = asyncio.ensure_future(call.offload(next, blocks))
        if block:
            yield memoryview(block)
    finally:
        pending.cancel()
