"""Hints about stretches of files: that the file system may have them back, or the memory that their pages take."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby

from dvidzarr.storage.backend import Part, whole_blocks

_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)  # Linux
_KEEP_SIZE_PUNCH_HOLE = 1 | 2  # of its linux/falloc.h


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give a stretch of a file back to the file system; nothing happens where that cannot be done."""
    if _fallocate is not None:
        _fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))


def punch(fd: int, part: Part) -> None:
    """Give back the blocks of a stretch."""
    punch_hole(fd, part.offset, whole_blocks(part.length))


def drop_pages(fd: int, part: Part) -> None:
    """Let the page cache drop a stretch."""
    os.posix_fadvise(fd, part.offset, part.length, os.POSIX_FADV_DONTNEED)


def begin_writing(fd: int) -> None:
    """Let a file that was just written go to the disk without waiting for it: a sync that follows waits less.

    Pages that are not on the disk yet cannot be dropped: Linux begins to write them, and (as a rule) they stay.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the stretches in order, those as one that lie one behind the other but for the rest of a block."""
    before: Part | None = None
    for part in sorted(parts):
        whole = whole_blocks(part.length)
        if before and whole and part.key == before.key and part.offset == before.offset + before.length:
            before = Part(part.key, before.offset, before.length + whole)
            continue
        if before:
            yield before
        before = Part(part.key, part.offset, whole)
    if before:
        yield before


def for_each(
    path_of: Callable[[str], str], parts: Iterable[Part], access: int, act: Callable[[int, Part], None]
) -> None:
    """Do something with stretches of files on which nothing but speed and room depends."""
    for key, stretches in groupby(sorted(parts), lambda part: part.key):
        with suppress(OSError):
            fd = os.open(path_of(key), access | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for stretch in stretches:
                    act(fd, stretch)
            finally:
                os.close(fd)
