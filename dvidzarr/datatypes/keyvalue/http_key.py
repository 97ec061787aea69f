"""`key/<key>`: one value (spec-keyvalue §2.4)."""

from typing import TYPE_CHECKING, cast

from dvidzarr.core.errors import (
    BusyError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    VersionLockedError,
)
from dvidzarr.datatypes.keyvalue.byteranges import (
    Unsatisfiable,
    Wanted,
    asks_by_query,
    wanted_by_header,
    wanted_by_query,
)
from dvidzarr.datatypes.keyvalue.model import Put, key_bytes
from dvidzarr.http.body import check_size, pieces, receive_small, write_pieces
from dvidzarr.http.endpoint import Call
from dvidzarr.http.errors import PlainError
from dvidzarr.http.pump import gathered
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty
from dvidzarr.storage.places import INLINE, LOGGED
from dvidzarr.storage.words import Blob
from dvidzarr.wire.gotext import go_quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dvidzarr.datatypes.keyvalue.model import KeyValueView
    from dvidzarr.storage.places import Place

_WITH_RANGES = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
_RANGES = {"Accept-Ranges": "bytes"}
_IN_MEMORY = 8 << 20
"""Values up to this size are received whole: one thread hop instead of one per block."""


async def keyvalue_view(call: Call) -> "KeyValueView":
    """Return the view that the path names, its instance opened (the first time, that reads logs)."""
    view = cast("KeyValueView", call.view_at(call.named_version))
    if not view.instance.opened:
        await call.offload(lambda: view.instance.dataset)
    return view


def _key(call: Call) -> str:
    return call.require("expect key string to follow 'key' endpoint", "key")[0]


async def _find(call: Call, view: "KeyValueView", key: bytes) -> "Place":
    known, place = view.find_now(key)
    if not known:
        place = await call.offload(view.find, key)
    if place is None:
        raise PlainError(404, f"Key {go_quote(call.words['key'])} not found")
    return place


async def get_key(call: Call) -> Response:
    """Answer a value, or the bytes of it that are asked for."""
    text = _key(call)
    header = call.request.headers.get("range", "")
    by_query = bool(call.query) and asks_by_query(call.query)
    if by_query and header:
        raise InvalidInputError("cannot combine Range header with byte_start/byte_end query parameters")
    view, key = await keyvalue_view(call), key_bytes(text)
    place = await _find(call, view, key)
    wanted = None
    if by_query:
        wanted = wanted_by_query(call.query, text, place.length)
    elif header:
        found = wanted_by_header(header, place.length)
        if isinstance(found, Unsatisfiable):
            return _unsatisfiable(found, place)
        wanted = found
    if wanted is not None:
        return await _send_slice(call, view, key, place, wanted)
    if place.length <= INLINE:
        return Response(view.read(key, place), headers=_WITH_RANGES)
    return await gathered(call, view.read_pieces(key, place), length=place.length, headers=_RANGES)


async def _send_slice(
    call: Call, view: "KeyValueView", key: bytes, place: "Place", wanted: Wanted
) -> Response:
    headers = dict(_RANGES)
    if wanted.partial:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{place.length}"
    parts = view.slice_pieces(key, place, wanted.start, wanted.stop)
    length, status = wanted.stop - wanted.start, 206 if wanted.partial else 200
    return await gathered(call, parts, length=length, headers=headers, status=status)


def _unsatisfiable(why: Unsatisfiable, place: "Place") -> Response:
    headers = {"Content-Range": f"bytes */{place.length}", "X-Content-Type-Options": "nosniff"}
    headers["Content-Type"] = "text/plain; charset=utf-8"
    return Response(f"{why.text}\n".encode(), status=416, headers=headers)


async def head_key(call: Call) -> Response:
    """Answer whether a key exists; byte ranges are ignored."""
    text = _key(call)
    view = await keyvalue_view(call)
    await _find(call, view, key_bytes(text))
    return Response(headers=_RANGES)


async def post_key(call: Call) -> Response:
    """Set a value. Small ones that come at the same time share one write; large ones are on the disk before that."""
    key = key_bytes(_key(call))
    view = await keyvalue_view(call)
    check_size(call, 0)
    value: bytes | Blob | None = _arrived(call)
    if value is None:
        value = await _received(call, view)
    try:
        await put(call, view, Put(key, value, call.author))
    except (VersionLockedError, NotFoundError, BusyError, NoSpaceError):  # surely not recorded
        if isinstance(value, Blob):
            await call.offload(view.discard, value)
        raise
    return empty()


def _arrived(call: Call) -> bytes | None:
    """Return a small body that came together with the headers, without the cost of waiting; None if it did not."""
    body = call.request.body
    return body.arrived() if body.received <= LOGGED else None


async def _received(call: Call, view: "KeyValueView") -> bytes | Blob:
    """Receive a value; one too large for the log becomes a blob, written while it comes beyond `_IN_MEMORY`."""
    declared = call.request.body.declared
    if declared is not None and declared <= LOGGED:
        return await receive_small(call, LOGGED)
    # what is gathered and the same once more in one piece
    async with call.runtime.admit(2 * _IN_MEMORY if declared is None else 2 * min(declared, _IN_MEMORY)):
        body = pieces(call)
        parts: list[bytes | bytearray] = []
        size = 0
        async for piece in body:
            parts.append(piece)
            size += len(piece)
            if size > _IN_MEMORY:
                return await _streamed(call, view, b"".join(parts), body)
        value = b"".join(parts)
        return value if size <= LOGGED else await call.offload(view.write_blob, value)


async def _streamed(
    call: Call, view: "KeyValueView", start: bytes, body: "AsyncIterator[bytes | bytearray]"
) -> Blob:
    writer = await call.offload(view.blob_writer)
    try:
        await write_pieces(call, writer.write, start, body)
        return await call.offload(writer.finish)
    finally:
        await call.offload(writer.close)


async def put(call: Call, view: "KeyValueView", item: Put) -> None:
    """Write a value together with those of other requests for the same version."""
    await call.runtime.together((view.instance.id, view.version.id, view.overrule), view.put_all, item)


async def delete_key(call: Call) -> Response:
    """Delete a key in this version, whether it exists or not."""
    key = key_bytes(_key(call))
    view = await keyvalue_view(call)
    await put(call, view, Put(key, None, call.author))
    return empty()
