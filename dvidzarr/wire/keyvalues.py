"""The messages of `api/proto/keyvalue.proto`: lists of keys, and of keys with values."""

from collections.abc import Iterator
from dataclasses import dataclass

from dvidzarr.wire.protobuf import BYTES, VARINT, bytes_head, fields, text

_KEYS = {1: BYTES, 2: BYTES}
_KEY_RANGE = {1: BYTES, 2: VARINT, 3: VARINT}
_KEY_VALUES = {1: BYTES}
_KEY_VALUE = {1: BYTES, 2: BYTES}


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
    for number, value in fields(memoryview(body), _KEYS):
        if number == 1:
            whole.append(KeySlice(text(value)))
        else:
            parts.append(_decode_range(value))
    return whole + parts


def _decode_range(message: memoryview) -> KeySlice:
    key, start, end = b"", 0, 0
    for number, value in fields(message, _KEY_RANGE):
        if number == 1:
            key = text(value)
        else:
            start, end = (value, end) if number == 2 else (start, value)
    return KeySlice(key, start, end + 1)


def decode_key_values(body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Decode `KeyValues`; the values point into the body."""
    for _, value in fields(body, _KEY_VALUES):
        yield _decode_key_value(value)


def _decode_key_value(message: memoryview) -> tuple[bytes, memoryview]:
    key, content = b"", message[:0]
    for number, value in fields(message, _KEY_VALUE):
        if number == 1:
            key = text(value)
        else:
            content = value
    return key, content


def key_value_head(key: bytes, size: int) -> bytes:
    """Return what precedes a value of `size` bytes in `KeyValues`; an empty value is left out, as proto3 does."""
    inner = bytes_head(1, len(key)) + key if key else b""
    if size:
        inner += bytes_head(2, size)
    return bytes_head(1, len(inner) + size) + inner
