"""`keyrangevalues` and `keyvalues`: many values in one request (spec-keyvalue §2.3, §2.5)."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.keyvalue.byteranges import slice_of
from dvidzarr.datatypes.keyvalue.formats import (
    BadValueError,
    Format,
    Item,
    as_json,
    as_protobuf,
    as_tar,
)
from dvidzarr.datatypes.keyvalue.http_key import keyvalue_view
from dvidzarr.datatypes.keyvalue.keyrequests import decode_key_requests, parse_key_requests
from dvidzarr.datatypes.keyvalue.model import check_key, key_text
from dvidzarr.http.body import receive_small
from dvidzarr.http.endpoint import Call
from dvidzarr.http.errors import PlainError
from dvidzarr.http.pump import gathered
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty
from dvidzarr.wire.gotext import go_json
from dvidzarr.wire.jsontext import is_json
from dvidzarr.wire.keyvalues import KeySlice, decode_key_values

if TYPE_CHECKING:
    from dvidzarr.datatypes.keyvalue.model import KeyValueView
    from dvidzarr.storage.places import Place

_MAX_BATCH = 1 << 30
"""Largest body of POST keyvalues: it becomes one log record."""


def _is(call: Call, name: str) -> bool:
    return call.query.get(name) == "true"


def _format(call: Call) -> tuple[Format, str]:
    """Return the format that the query asks for, and its media type."""
    tar, json = _is(call, "tar") or _is(call, "jsontar"), _is(call, "json")
    if tar and json:
        raise InvalidInputError("can only specify tar or json output, not both")
    if json:
        return partial(as_json, check=_is(call, "check")), "application/json"
    return (as_tar, "application/tar") if tar else (as_protobuf, "application/octet-stream")


def ends(call: Call) -> tuple[bytes, bytes]:
    """Return the first and the last key of the range in the path."""
    message = f"expect beginning and end keys to follow '{call.parts[0]}' endpoint"
    first, last = call.require(message, "first", "last")
    return first.encode("utf-8", "surrogateescape"), last.encode("utf-8", "surrogateescape")


async def get_range_values(call: Call) -> Response:
    """Answer the keys of a range with their values."""
    form, media_type = _format(call)
    first, last = ends(call)
    view = await keyvalue_view(call)
    try:
        return await gathered(call, form(view, _in_range(view, first, last)), media_type)
    except BadValueError as error:
        raise _as_json(call, error) from None


def _as_json(call: Call, error: BadValueError) -> PlainError:
    """Return the refusal as JSON: DVID ends its object there, says 200, and the type stays what was asked for."""
    return PlainError(400, go_json({"error": f"{error} ({call.path})"}).decode(), "application/json")


def _in_range(view: "KeyValueView", first: bytes, last: bytes) -> Iterator[Item]:
    for key, place in view.places(first, last):
        if place.length:  # DVID leaves empty values out of ranges, in every format (spec-keyvalue §1.2)
            yield Item(key, place, 0, place.length)


async def get_values(call: Call) -> Response:
    """Answer the keys that the body lists, in its order."""
    view = await keyvalue_view(call)
    count = 0
    try:
        form, media_type = _format(call)
        body = await receive_small(call)
        decode = decode_key_requests if media_type == "application/octet-stream" else parse_key_requests

        def look_up() -> list[Item]:
            nonlocal count
            asked = decode(body)
            items = _listed(view, asked, media_type)
            count = len(asked)
            return items

        return await gathered(call, form(view, await call.offload(look_up)), media_type)
    except BadValueError as error:
        raise _as_json(call, error) from None
    except InvalidInputError as error:
        name = view.instance.name
        raise InvalidInputError(f'GET /keyvalues on {count} keys, data "{name}": {error}') from None


def _listed(view: "KeyValueView", asked: list[KeySlice], media_type: str) -> list[Item]:
    """Look everything up and check all slices, so that what is wrong is said before anything is sent."""
    places = view.find_all([each.key for each in asked])
    items = [_item(each, place) for each, place in zip(asked, places, strict=True)]
    if media_type == "application/json":
        _check_slices(view, items)
    return items


def _item(asked: KeySlice, place: "Place | None") -> Item:
    if place is None or not place.length:  # slices of nothing are nothing, as in DVID
        return Item(asked.key, None, 0, 0)
    if asked.start is None or asked.stop is None:
        return Item(asked.key, place, 0, place.length)
    wanted = slice_of(asked.start, asked.stop - 1, key_text(asked.key), place.length)
    return Item(asked.key, place, wanted.start, wanted.stop, ranged=True)


def _check_slices(view: "KeyValueView", items: Iterable[Item]) -> None:
    # each once, however often it is asked for
    for item in dict.fromkeys(item for item in items if item.ranged):
        if not is_json(item.whole(view)):
            raise InvalidInputError(f"bad JSON for key {item.shown} after byte range")


async def post_values(call: Call) -> Response:
    """Set the keys of a `KeyValues` message: all of them, or none."""
    limit = min(_MAX_BATCH, call.runtime.settings.limits.max_request_bytes)
    view = await keyvalue_view(call)
    expected = call.request.body.declared
    # the body, the record and its frame
    async with call.runtime.admit(3 * (1 << 20 if expected is None else min(expected, limit))):
        body = await receive_small(call, limit)
        await call.offload(_write, view, body, call)
    return empty()


def _write(view: "KeyValueView", body: bytes, call: Call) -> None:
    writes = [(check_key(key), value) for key, value in decode_key_values(memoryview(body))]
    view.write(writes, call.author)
