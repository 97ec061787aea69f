"""The body of `GET keyvalues`: keys, and which bytes of their values are meant (spec-keyvalue §2.5).

What is wrong with a range is said whether the key exists or not, as in DVID: only the values are looked up later.
"""

import orjson

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.keyvalue.byteranges import check_order
from dvidzarr.datatypes.keyvalue.model import key_text
from dvidzarr.wire.gotext import go_quote
from dvidzarr.wire.jsontext import load_json
from dvidzarr.wire.keyvalues import KeySlice, decode_keys

_UINT64 = 1 << 64


def decode_key_requests(body: bytes) -> list[KeySlice]:
    """Return the keys of a `Keys` message; raise if it is none, or a range ends before it starts."""
    asked = decode_keys(body)
    for each in asked:
        if each.start is not None and each.stop is not None:
            check_order(each.start, each.stop - 1, key_text(each.key))
    return asked


def parse_key_requests(body: bytes) -> list[KeySlice]:
    """Return the keys of a JSON body in its order; raise unless all are texts or all are objects."""
    if not body.strip():
        raise InvalidInputError("unexpected end of JSON input")
    try:
        value = load_json(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(str(error)) from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInputError("the body must be a JSON list of keys, or of objects with a key")
    if all(item is None or isinstance(item, str) for item in value):
        return [KeySlice((item or "").encode()) for item in value]
    return [_parse_object(item) for item in value]


def _parse_object(item: object) -> KeySlice:
    if not isinstance(item, dict | None):
        shown = str(item)[:80]
        raise InvalidInputError(f"{shown!r} is no object with a key; texts and objects cannot be mixed")
    members = {name.lower(): member for name, member in (item or {}).items() if member is not None}
    key = members.get("key", "")
    if not isinstance(key, str):
        raise InvalidInputError(f"a key must be a text, not {str(key)[:80]}")
    start, end = (_bound(members, name) for name in ("byte_start", "byte_end"))
    if start is None and end is None:
        return KeySlice(key.encode())
    if start is None or end is None:
        raise InvalidInputError(f"range read for key {go_quote(key)} requires both byte_start and byte_end")
    check_order(start, end, key)
    return KeySlice(key.encode(), start, end + 1)


def _bound(members: dict[str, object], name: str) -> int | None:
    value = members.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < _UINT64):
        raise InvalidInputError(f"{name} must be an unsigned integer, not {str(value)[:80]}")
    return value
