"""The messages of `api/proto/keyvalue.proto`: lists of keys, and of keys with values."""

from collections.abc import Iterator
from dataclasses import dataclass

from dvidzarr.core.errors import FormatError
from dvidzarr.wire.protobuf import bytes_head, fields, text


@dataclass(frozen=True, slots=True)
class KeySlice:
    """A key, and which bytes of its value are meant: [start, stop), the whole value if None."""

    key: bytes
    start: int | None = None
    stop: int | None = None


def decode_keys(body: bytes) -> list[KeySlice]:
    """Decode `Keys`: first all `keys`, then all `key_ranges`."""
    whole: list[KeySlice] = []
    parts: list[KeySlice] = []
    for number, value in fields(memoryview(body)):
        if number == 1:
            whole.append(KeySlice(text(_bytes(value))))
        elif number == 2:
            parts.append(_decode_range(_bytes(value)))
    return whole + parts


def _decode_range(message: memoryview) -> KeySlice:
    key, start, end = b"", 0, 0
    for number, value in fields(message):
        if number == 1:
            key = text(_bytes(value))
        elif number in (2, 3):
            if not isinstance(value, int):
                raise FormatError("proto: cannot parse invalid wire-format data")
            start, end = (value, end) if number == 2 else (start, value)
    return KeySlice(key, start, end + 1)


def decode_key_values(body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Decode `KeyValues`; the values point into the body."""
    for number, value in fields(body):
        if number == 1:
            yield _decode_key_value(_bytes(value))


def _decode_key_value(message: memoryview) -> tuple[bytes, memoryview]:
    key, content = b"", message[:0]
    for number, value in fields(message):
        if number == 1:
            key = text(_bytes(value))
        elif number == 2:
            content = _bytes(value)
    return key, content


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise FormatError("proto: cannot parse invalid wire-format data")
    return value


def key_value_head(key: bytes, size: int) -> bytes:
    """Return what precedes a value of `size` bytes in `KeyValues`; an empty value is left out, as proto3 does."""
    inner = bytes_head(1, len(key)) + key if key else b""
    if size:
        inner += bytes_head(2, size)
    return bytes_head(1, len(inner) + size) + inner
