"""The payload of a `chunks` record: one column after another, for all chunks that a request wrote.

``u32 n | n × (z, y, x) i32 | n × location i64 | n × length u32 | n × crc32c u32 | n × flags u8``, little-endian.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dvidzarr.core.errors import CorruptionError
from dvidzarr.core.geometry import ZYX
from dvidzarr.storage.backend import Part
from dvidzarr.storage.chunkkeys import pack, pack_one
from dvidzarr.storage.runs import ROW, Row

_NUMBER = struct.Struct("<I")
_BYTES = 29
"""Of each chunk."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A chunk that was written and awaits its record. `part` is where it lies, None for a tombstone."""

    coord: ZYX
    location: int
    length: int
    checksum: int
    flags: int
    part: Part | None


@lru_cache(64)
def _layout(number: int) -> struct.Struct:
    return struct.Struct(f"<I{3 * number}i{number}q{number}I{number}I{number}B")


def payload_of(receipts: Sequence[Receipt]) -> bytes:
    """Return the payload of a record that names these objects."""
    number = len(receipts)
    return _layout(number).pack(
        number,
        *(at for receipt in receipts for at in receipt.coord),
        *(receipt.location for receipt in receipts),
        *(receipt.length for receipt in receipts),
        *(receipt.checksum for receipt in receipts),
        *(receipt.flags for receipt in receipts),
    )


def count_of(payload: memoryview, sequence: int) -> int:
    """Return how many chunks the record of this sequence names."""
    (number,) = _NUMBER.unpack_from(payload)
    if len(payload) != _NUMBER.size + _BYTES * number:
        raise CorruptionError(f"record {sequence} declares {number} chunks in {len(payload)} bytes")
    return int(number)


def rows_of(payload: memoryview, ordinal: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (keys, rows) of a record, as arrays."""
    number = count_of(payload, sequence)
    at = _NUMBER.size
    coords = np.frombuffer(payload, "<i4", 3 * number, at).reshape(-1, 3)
    rows = np.zeros(number, ROW)
    rows["sequence"], rows["ordinal"], rows["origin"] = sequence, ordinal, ordinal
    rows["location"] = np.frombuffer(payload, "<i8", number, at + 12 * number)
    rows["length"] = np.frombuffer(payload, "<u4", number, at + 20 * number)
    rows["checksum"] = np.frombuffer(payload, "<u4", number, at + 24 * number)
    rows["flags"] = np.frombuffer(payload, "u1", number, at + 28 * number)
    return pack(coords), rows


def row_tuples_of(payload: memoryview, ordinal: int, sequence: int) -> list[tuple[int, Row]]:
    """Return the (key, row) of a record as Python numbers: for a few chunks that takes a tenth of the time."""
    number = count_of(payload, sequence)
    _, *flat = _layout(number).unpack(payload)
    coords = zip(*(flat[axis : 3 * number : 3] for axis in range(3)), strict=True)
    columns = (flat[start * number : (start + 1) * number] for start in range(3, 7))
    return [
        (pack_one(coord), (sequence, location, ordinal, ordinal, length, checksum, flags))
        for coord, location, length, checksum, flags in zip(coords, *columns, strict=True)
    ]
