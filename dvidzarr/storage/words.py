"""What a record says about documents: one word (value or deletion) per key. `put` and `delete` hold one, `batch` many.

A `put` has the key's length `k` and the value's checksum `c` in its header, and key and value in its payload; of a value
in a blob the header has the id `blob` and the length `n`. A `batch` has in its header, for each key, `[key length]` (a
deletion), `[key length, value length, checksum]` or `[key length, value length, checksum, blob id]`, and in its payload
keys and values in this order, those in blobs left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from crc32c import crc32c

from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.places import DELETED, IN_BLOB, INLINE, VALUE, Place

DOCUMENT_KINDS = frozenset({Kind.PUT, Kind.DELETE, Kind.BATCH})

_WITH_BLOB = 3  # members of an item behind the key's length


@dataclass(frozen=True, slots=True)
class Blob:
    """A value that lies on the store as an object of its own."""

    id: str
    length: int
    checksum: int


def blob_key(prefix: str, blob: str) -> str:
    """Return the object key of a blob of the dataset under a prefix."""
    return f"{prefix}/blobs/{blob}"


Value = bytes | memoryview | Blob | None
"""What is written: bytes, a blob that exists already, or None for a deletion."""


class Word(NamedTuple):
    """One key of a record: the payload holds the key from `start`, the value from `value_start`.

    `length` is None for a deletion; `blob` is the id of the blob that holds the value, None if the payload does.
    A tuple, because a log that is read back has millions.
    """

    start: int
    value_start: int
    length: int | None
    checksum: int
    blob: str | None


def words_of(entry: Entry) -> Iterator[Word]:
    """Yield the words of a record of one of the `DOCUMENT_KINDS`."""
    header = entry.header
    if entry.kind == Kind.DELETE:
        yield Word(0, header["k"], None, 0, None)
    elif entry.kind == Kind.PUT:
        size = header["k"]
        blob = header.get("blob")
        length = len(entry.payload) - size if blob is None else header["n"]
        yield Word(0, size, length, header["c"], blob)
    else:
        at = 0
        for size, *rest in header["items"]:
            value_start = at + size
            if not rest:
                yield Word(at, value_start, None, 0, None)
                at = value_start
            elif len(rest) == _WITH_BLOB:
                yield Word(at, value_start, *rest)
                at = value_start
            else:
                length, checksum = rest
                yield Word(at, value_start, length, checksum, None)
                at = value_start + length


def placed_words(entry: Entry, ordinal: int) -> list[tuple[bytes, Place]]:
    """Return the keys of a record of a version, each with the place of its value."""
    return [
        (bytes(entry.payload[word.start : word.value_start]), _place(entry, ordinal, word))
        for word in words_of(entry)
    ]


def _place(entry: Entry, ordinal: int, word: Word) -> Place:
    if word.length is None:
        return Place(ordinal, entry.sequence, DELETED, None, 0, 0, 0, 0)
    if word.blob is not None:
        name = word.blob.encode()
        return Place(ordinal, entry.sequence, VALUE, name, IN_BLOB, 0, word.length, word.checksum)
    start = word.value_start
    kept = bytes(entry.payload[start : start + word.length]) if word.length <= INLINE else None
    at = entry.offset + start
    return Place(ordinal, entry.sequence, VALUE, kept, entry.segment, at, word.length, word.checksum)


def batch_record(writes: Sequence[tuple[bytes, Value]]) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a `batch`."""
    items: list[list[int | str]] = []
    parts: list[bytes | memoryview] = []
    for key, value in writes:
        parts.append(key)
        if value is None:
            items.append([len(key)])
        elif isinstance(value, Blob):
            items.append([len(key), value.length, value.checksum, value.id])
        else:
            items.append([len(key), len(value), crc32c(value)])
            parts.append(value)
    return {"items": items}, b"".join(parts)
