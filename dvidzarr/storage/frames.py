"""The bytes of a log: segment headers, frames and records. Pure; the files are in `log.py`.

A segment starts with a 64-byte header. Then come frames, one per flush:
``u32 length | u32 crc32c(salt, rest) | u64 first sequence | u32 count | records`` where length counts the bytes
after the checksum. A record is ``u16 kind | u32 header length | u32 payload length | header JSON | payload``.
All numbers are little-endian. Source: storage design §2.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import orjson
from crc32c import crc32c

from dvidzarr.core.errors import CorruptionError, InvalidInputError

MAGIC = b"DVZLOG1\n"
HEADER_SIZE = 64
_HEADER = struct.Struct("<8s16s16sQI")  # magic, store id, log id, first sequence, salt; then the checksum
_FRAME = struct.Struct("<IIQI")
_CHECKED, _NUMBERS = struct.Struct("<II"), struct.Struct("<QI")  # the two halves of a frame's head
_RECORD = struct.Struct("<HII")
_AFTER_CHECKSUM = 12
_LEAST = _AFTER_CHECKSUM + _RECORD.size
_HIGH = 1 << 16  # sequences stay below 2⁴⁸
_STRETCH = 1 << 16


class Kind(IntEnum):
    """What a record says. Numbers are for ever; `log show` prints the names."""

    REPO = 1
    VERSION = 2
    COMMIT = 3
    NOTE = 4
    ALIAS = 5
    INSTANCE = 6
    RENAME = 7
    DELETE_INSTANCE = 8
    IDS = 9
    REPO_LOG = 10
    DELETE_REPO = 11
    AMEND = 12
    CHUNKS = 32
    PUT = 33
    DELETE = 34
    BATCH = 35
    SETTINGS = 36
    EXTENTS = 37
    FINISHED = 38
    CHECKPOINT = 39
    VOID = 40
    LOST = 41


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log: a record's sequence (from 1; 0 = before the first) and the checksum of its bytes."""

    sequence: int
    checksum: int


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as read back from a log.

    `segment` and `offset` say where the payload lies, for values that are read from the log later.
    """

    sequence: int
    kind: int
    header: dict[str, Any]
    payload: memoryview
    checksum: int
    segment: int
    offset: int

    @property
    def position(self) -> Position:
        """Where the record stands."""
        return Position(self.sequence, self.checksum)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first 64 bytes of a segment."""

    store_id: str
    log_id: str
    first: int
    salt: int

    def pack(self) -> bytes:
        """Return the 64 bytes."""
        raw = _HEADER.pack(
            MAGIC, bytes.fromhex(self.store_id), bytes.fromhex(self.log_id), self.first, self.salt
        )
        raw = raw.ljust(HEADER_SIZE - 4, b"\0")
        return raw + struct.pack("<I", crc32c(raw))

    @classmethod
    def unpack(cls, raw: bytes) -> "SegmentHeader | None":
        """Return the header, None if the bytes are torn."""
        if (
            len(raw) < HEADER_SIZE
            or crc32c(raw[: HEADER_SIZE - 4]) != struct.unpack_from("<I", raw, HEADER_SIZE - 4)[0]
        ):
            return None
        magic, store, log, first, salt = _HEADER.unpack_from(raw)
        return cls(store.hex(), log.hex(), first, salt) if magic == MAGIC else None


def encode_record(kind: int, header: dict[str, Any], payload: bytes) -> bytes:
    """Return the bytes of one record; `InvalidInputError` if the header holds what JSON cannot."""
    try:
        text = orjson.dumps(header)
    except orjson.JSONEncodeError as error:
        raise InvalidInputError(f"what cannot be stored: {error}, in {str(header)[:400]!a}") from None
    return b"".join((_RECORD.pack(kind, len(text), len(payload)), text, payload))


def encode_frame(first: int, records: Sequence[bytes], salt: int) -> bytes:
    """Return the bytes of one frame whose first record has the sequence `first`."""
    parts = (_NUMBERS.pack(first, len(records)), *records)
    checksum = salt
    for part in parts:
        checksum = crc32c(part, checksum)
    return b"".join((_CHECKED.pack(sum(map(len, parts)), checksum), *parts))


def frame_end(data: memoryview, offset: int, expected: int, salt: int) -> int | None:
    """Return where the valid frame at `offset` ends, None if there is none that starts with sequence `expected`."""
    if offset + _FRAME.size > len(data):
        return None
    length, checksum, first, count = _FRAME.unpack_from(data, offset)
    end = offset + 8 + length
    if length < _LEAST or end > len(data) or first != expected or count < 1:
        return None
    return end if crc32c(data[offset + 8 : end], salt) == checksum else None


def frame_size(data: memoryview) -> int:
    """Return how long the frame is that begins here, if one does; 0 if these are too few bytes to tell."""
    return 8 + int.from_bytes(data[:4], "little") if len(data) >= _FRAME.size else 0


def first_sequence(data: memoryview, offset: int) -> int:
    """Return the sequence of the first record of a frame, or what stands in its place."""
    return int.from_bytes(data[offset + 8 : offset + 16], "little")


def last_sequence(data: memoryview, offset: int) -> int:
    """Return the sequence of the last record of a frame that `frame_end` found valid."""
    _, _, first, count = _FRAME.unpack_from(data, offset)
    return int(first) + int(count) - 1


def decode_frame(data: memoryview, offset: int, segment: int, base: int = 0) -> list[Entry]:
    """Return the records of a frame that `frame_end` found valid; `data` starts at byte `base` of the segment."""
    length, _, sequence, count = _FRAME.unpack_from(data, offset)
    end, at = offset + 8 + length, offset + _FRAME.size
    entries = []
    for number in range(count):
        kind, header_length, payload_length = _RECORD.unpack_from(data, at)
        body = at + _RECORD.size
        payload = body + header_length
        stop = payload + payload_length
        if stop > end:
            raise CorruptionError(f"record {sequence + number} is longer than its frame")
        header = orjson.loads(data[body:payload])
        checksum = crc32c(data[at:stop])
        place = base + payload
        entries.append(Entry(sequence + number, kind, header, data[payload:stop], checksum, segment, place))
        at = stop
    return entries


def content_end(data: memoryview, start: int) -> int:
    """Return where the zeros at the end of `data` begin, `start` if nothing else follows there: they are no frame."""
    for stop in range(len(data), start, -_STRETCH):
        begin = max(start, stop - _STRETCH)
        stretch = np.frombuffer(data[begin:stop], np.uint8)
        if stretch.any():
            return begin + int(stretch.nonzero()[0][-1]) + 1
    return start


def next_frame(data: memoryview, offset: int, expected: int, salt: int) -> int | None:
    """Return the offset of the first valid frame at or after `offset` with a sequence ≥ `expected`, None if there is none.

    Every byte offset is looked at: what lies between is damaged, so its lengths cannot be believed.
    """
    candidates: list[int] = []
    stop = min(len(data), content_end(data, offset) + 3)  # the number of records ends in zeros
    for phase in range(4):
        tail = np.frombuffer(data[:stop], np.uint8)[offset + phase :]
        words = tail[: len(tail) // 4 * 4].view("<u4")
        count = len(words) - 4
        if count <= 0:
            continue
        at = np.arange(count) * 4 + phase + offset
        length, low, high, number = words[:count], words[2:-2], words[3:-1], words[4:]
        likely = (length >= _LEAST) & (at + 8 + length <= len(data)) & (number >= 1)
        first = low.astype(np.int64) | high.astype(np.int64) << 32
        candidates.extend(at[likely & (first >= expected) & (high < _HIGH)].tolist())
    for place in sorted(candidates):
        if frame_end(data, place, _FRAME.unpack_from(data, place)[2], salt) is not None:
            return int(place)
    return None
