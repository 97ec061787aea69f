"""Protocol buffers, as far as the messages of `api/proto` need them: fields read in place, values never copied.

Generated code would hold each message whole in memory twice; here answers are streamed and request bodies only pointed
into. Source: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dvidzarr.core.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_FIXED = {FIXED64: 8, FIXED32: 4}
_GROUP_START, _GROUP_END = 3, 4
_MAX_SHIFT = 63
_MALFORMED = "proto: cannot parse invalid wire-format data"


def fields(message: memoryview, kinds: Mapping[int, int]) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the known fields of a message: a memoryview for `BYTES`, else an integer.

    Parameters
    ----------
    kinds
        The numbers that are known, and the kind of each. A field of another kind is an unknown one, to Go as well.

    Raises
    ------
    FormatError
        The bytes are no message.
    """
    at = 0
    groups: list[int] = []
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise FormatError(_MALFORMED)
        if kind in (_GROUP_START, _GROUP_END):
            _nest(groups, number, kind)
            continue
        value, at = _value(message, at, kind)
        # groups are of the past: their fields are unknown ones
        if not groups and kinds.get(number) == kind:
            yield number, value
    if groups:
        raise FormatError(_MALFORMED)


def _nest(groups: list[int], number: int, kind: int) -> None:
    if kind == _GROUP_START:
        groups.append(number)
    elif not groups or groups.pop() != number:
        raise FormatError(_MALFORMED)


def _value(message: memoryview, at: int, kind: int) -> tuple[int | memoryview, int]:
    if kind == VARINT:
        return _varint(message, at)
    if kind == BYTES:
        size, at = _varint(message, at)
    elif kind in _FIXED:
        size = _FIXED[kind]
    else:
        raise FormatError(_MALFORMED)
    if size > len(message) - at:
        raise FormatError(_MALFORMED)
    value = message[at : at + size]
    return (value if kind == BYTES else int.from_bytes(value, "little")), at + size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > _MAX_SHIFT:
            raise FormatError(_MALFORMED)
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise FormatError(_MALFORMED)
            return value, at
        shift += 7


def varint(value: int) -> bytes:
    """Return the bytes of an unsigned number."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_head(number: int, size: int) -> bytes:
    """Return what precedes the `size` bytes of a field of kind `BYTES`."""
    return varint(number << 3 | BYTES) + varint(size)


def text(value: memoryview) -> bytes:
    """Return the bytes of a string field; `FormatError` unless they are UTF-8, as proto3 wants."""
    raw = bytes(value)
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise FormatError("proto: field contains invalid UTF-8") from None
    return raw
