"""The segment that a log appends to: frames, and zeros written ahead of them. Design: storage §2.

A frame that overwrites bytes which the file holds already changes neither its length nor where its blocks lie: when it is
synced, the file system has nothing to note in its journal. So a frame that does not fit takes zeros for later ones along,
in the same write. Zeros are no frame: whoever reads takes them for the end. They are cut off when nobody appends any more;
after a crash they are still there.
"""

from contextlib import suppress

from dvidzarr.core.errors import NoSpaceError, StorageError
from dvidzarr.storage.openfiles import AppendFile

AHEAD_LEAST = 16 << 10
AHEAD_MOST = 1 << 20
"""As many zeros as the segment holds bytes, within these limits: many small logs cost little room."""
_FRAMES_AHEAD = 8
"""For fewer frames of the size at hand, zeros cost more than they spare."""


class SegmentFile:
    """A segment open for appending: the one who leads a log writes, others may sync. `size` bytes lie in it."""

    def __init__(self, file: AppendFile, size: int) -> None:
        self._file = file
        self._size = size
        self._roomy = True

    def append(self, end: int, frame: bytes, limit: int) -> None:
        """Write a frame at `end`, behind the others; zeros go no further than `limit` (0: none are wanted)."""
        stop = end + len(frame)
        ahead = min(max(end, AHEAD_LEAST), AHEAD_MOST, limit - stop)
        if stop > self._size and self._roomy and ahead >= _FRAMES_AHEAD * len(frame):
            try:
                self._file.write_at(end, frame + bytes(ahead))
            except NoSpaceError:  # there may be room for the frame alone
                self._roomy = False
                self.cut(end)
            else:
                self._size = stop + ahead
                return
        self._file.write_at(end, frame)
        self._size = max(self._size, stop)

    def cut(self, end: int) -> None:
        """Cut off what lies behind `end`."""
        self._file.truncate(end)
        self._size = end

    def sync(self) -> None:
        """Make the contents and the length durable."""
        self._file.sync()

    def close(self, end: int | None = None) -> None:
        """Close the file, without the zeros behind `end` if that can be done; nothing is synced."""
        if end is not None and end < self._size:
            with suppress(StorageError):
                self.cut(end)
        self._file.close()
