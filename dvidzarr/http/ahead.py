"""Answers made on the pool while they are sent: small ones whole, larger ones as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from dvidzarr.http.endpoint import Call
from dvidzarr.http.response import Response
from dvidzarr.http.responses import stream

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK = 1 << 20
"""Pieces are gathered until they have so many bytes; a smaller answer is one body."""

_BLOCKS = 4  # one gathered, one joined, one sent, one in the transport


async def gathered(
    call: Call,
    pieces: "Iterable[Buffer]",
    content_type: str = "application/octet-stream",
    *,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
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
        first = await call.offload(next, blocks, None)
        if first is None or len(first) < BLOCK:
            return Response(first or b"", status=status, headers=more)

        async def body() -> AsyncGenerator[memoryview, None]:
            yield first
            async with aclosing(ahead(call, lambda: next(blocks, None))) as rest:
                async for block in rest:
                    yield block

        async with aclosing(body()) as stream_of:
            return await stream(call, stream_of, length, headers=more, status=status)


def _blocks(pieces: "Iterable[Buffer]") -> Iterator[memoryview]:
    """Yield the pieces joined to blocks, all but the last of at least `BLOCK` bytes."""
    parts: list[Buffer] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += memoryview(piece).nbytes
        if size >= BLOCK:
            yield memoryview(b"".join(parts))
            parts, size = [], 0
    if parts:
        yield memoryview(b"".join(parts))


async def ahead(call: Call, produce: Callable[[], memoryview | None]) -> AsyncGenerator[memoryview, None]:
    """Yield what `produce` returns until it is None; the next is made on the pool while one is sent.

    `produce` is never called twice at the same time, so it may keep state, but from different threads.
    """
    pending = asyncio.ensure_future(call.offload(produce))
    try:
        while (piece := await pending) is not None:
            pending = asyncio.ensure_future(call.offload(produce))
            yield piece
    finally:
        pending.cancel()
