"""Where the values of documents lie: what a version's word on a key says."""

from typing import NamedTuple

INLINE = 1024
"""Values up to this many bytes lie in the index itself; up to `LOGGED` in the log; larger ones in blobs."""
LOGGED = 64 << 10

VALUE, DELETED, CONFLICT = 0, 1, 2
"""What a version says of a key: `Place.state`. Only merge versions see conflicts, which no log and no index holds."""

IN_BLOB = -1
"""`Place.segment` of a value that lies in the blob named by `Place.value`."""


class Place(NamedTuple):
    """Where a value is: in `value`, in the log at (segment, start), or in the blob named by `value` (`IN_BLOB`).

    The order is that of the columns of the index. A tuple, because a look-up makes one per row.
    """

    ordinal: int
    sequence: int
    state: int
    value: bytes | None
    segment: int
    start: int
    length: int
    checksum: int

    @property
    def blob_id(self) -> str:
        """The blob that holds the value; for places whose segment is `IN_BLOB`."""
        return (self.value or b"").decode()
