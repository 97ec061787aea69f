"""Looking at the files of a log without opening it, and closing its gaps.

Damage in a log makes its instance take no writes: nobody knows what the lost records said. When the operator accepts the
loss, each gap is filled in place with one valid frame of as many `lost` records, so that sequences stay contiguous and
everything that names a sequence (seals, stamps, cursors) stays true. The damaged bytes are kept in the trash.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dvidzarr.core.errors import StorageError
from dvidzarr.storage.frames import (
    HEADER_SIZE,
    Kind,
    SegmentHeader,
    content_end,
    decode_frame,
    encode_frame,
    encode_record,
    first_sequence,
    frame_end,
    next_frame,
)
from dvidzarr.storage.local import LocalBackend

MOST_LOST = 1 << 24
"""So many records at a time are given up: if more seem to be lost, it is the word `applied` that is damaged."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes [start, stop) of a segment that are no frames, where records first … last should be.

    `last` < `first`: a torn tail that held nothing acknowledged. `salt` is None if the segment's header is lost too.
    """

    key: str
    start: int
    stop: int
    first: int
    last: int
    salt: int | None

    @property
    def is_torn_tail(self) -> bool:
        """Whether nothing was lost."""
        return self.last < self.first

    def __str__(self) -> str:
        if self.is_torn_tail:
            return (
                f"{self.key}: a torn tail of {self.stop - self.start} bytes; nothing of it was acknowledged"
            )
        return f"{self.key}: bytes {self.start} to {self.stop} are damaged; records {self.first} to {self.last} are lost"


def gaps(backend: LocalBackend, prefix: str, sealed: int = 0) -> Iterator[Gap]:
    """Yield what is not readable in the log below `prefix`, in order; a commit vouches for its records up to `sealed`."""
    # first of all: whoever writes meanwhile publishes more
    published = max(_published(backend, prefix), sealed)
    keys = _segments(backend, prefix, 1 if published else 0)
    sequence = 0
    headers = {key: SegmentHeader.unpack((backend.get(key) or b"")[:HEADER_SIZE]) for key in keys}
    for number, key in enumerate(keys):
        data = memoryview(backend.get(key) or b"")
        upto = published if number == len(keys) - 1 else _first_of(headers, keys[number + 1 :])
        header = headers[key]
        if header is None:
            yield Gap(key, 0, len(data), sequence + 1, upto, None)
            sequence = max(sequence, upto)
            continue
        offset = HEADER_SIZE
        while offset < len(data):
            end = frame_end(data, offset, sequence + 1, header.salt)
            if end is not None:
                sequence = decode_frame(data, offset, 0)[-1].sequence
                offset = end
                continue
            if sequence >= upto and content_end(data, offset) == offset:  # zeros that were written ahead
                break
            found = next_frame(data, offset, sequence + 1, header.salt)
            following = upto + 1 if found is None else first_sequence(data, found)
            stop = len(data) if found is None else found
            yield Gap(key, offset, stop, sequence + 1, following - 1, header.salt)
            sequence, offset = max(sequence, following - 1), stop
        if sequence < upto:
            yield Gap(key, len(data), len(data), sequence + 1, upto, header.salt)
            sequence = upto


def _segments(backend: LocalBackend, prefix: str, least: int) -> list[str]:
    """Return the keys of all segments from the first to the last one there is, those that are missing too."""
    names = (key.removeprefix(f"{prefix}/").removesuffix(".log") for key in backend.keys(prefix))
    last = max((int(name) for name in names if name.isdigit()), default=0)
    return [f"{prefix}/{number:08d}.log" for number in range(1, max(last, least) + 1)]


def _published(backend: LocalBackend, prefix: str) -> int:
    """Return the last sequence that was ever acknowledged, 0 if that is not known."""
    raw = backend.get(f"{prefix}/applied") or b""
    return int.from_bytes(raw[:8], "little") if len(raw) >= 8 else 0


def _first_of(headers: dict[str, SegmentHeader | None], later: list[str]) -> int:
    following = next((header for key in later if (header := headers[key]) is not None), None)
    return 0 if following is None else following.first - 1


def close_gap(backend: LocalBackend, gap: Gap, ids: tuple[str, str]) -> None:
    """Fill a gap with `lost` records, or cut a torn tail; the bytes it had go into the trash.

    A segment whose header is lost gets a new one: without it the segments behind it would not be read.
    """
    if gap.last - gap.first >= MOST_LOST:
        raise StorageError(
            f"{gap.key}: that records {gap.first} to {gap.last} are lost is hardly true. If the file `applied` beside it "
            f"is what is damaged, remove that and repair again"
        )
    data = backend.get(gap.key) or b""
    kept = f"trash/{gap.key.replace('/', '-')}.{gap.start}-{gap.stop}"
    backend.remove([kept])
    backend.create(kept, data[gap.start : gap.stop], sync=True)
    backend.sync([kept])
    salt, filler = gap.salt, b""
    if salt is None:
        header = SegmentHeader(*ids, gap.first, int.from_bytes(data[:4].ljust(4, b"\1"), "little"))
        salt, filler = header.salt, header.pack()
    if not gap.is_torn_tail:
        filler += _lost(gap, salt, 0 if filler else gap.stop - gap.start)
    tail = data[gap.stop :]
    if tail and len(filler) != gap.stop - gap.start:
        raise StorageError(f"{gap.key}: {len(filler)} bytes do not fit the gap of {gap.stop - gap.start}")
    backend.replace(gap.key, data[: gap.start] + filler + tail)


def _lost(gap: Gap, salt: int, size: int) -> bytes:
    """Return one frame of `lost` records, `size` bytes long (0: as short as it can be)."""
    record = encode_record(Kind.LOST, {}, b"")
    count = gap.last - gap.first + 1
    frame = encode_frame(gap.first, [record] * count, salt)
    if len(frame) >= size:
        return frame
    padded = encode_record(Kind.LOST, {}, bytes(size - len(frame)))
    return encode_frame(gap.first, [record] * (count - 1) + [padded], salt)
