"""Copying what is no volume: values by key, and regions of interest. What is the same already is not written."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dvidzarr.cli.keys import Keys, batches
from dvidzarr.core.errors import NotFoundError

if TYPE_CHECKING:
    from dvidzarr.cli.regions import Region

_AT_ONCE = 256
_BYTES_AT_ONCE = 32 << 20
"""So many keys and bytes are written as one request; a larger value goes alone."""


def copy_region(source: "Region", target: "Region") -> int:
    """Make a region what another is; return how many spans were written."""
    spans = source.read()
    if spans == target.read():
        return 0
    target.replace(spans)
    return len(spans)


def copy_keys(source: Keys, target: Keys, workers: int, *, mirror: bool) -> int:
    """Copy the values that differ, and with `mirror` remove other keys; return how many were written."""
    names = source.names()
    there = frozenset(target.names())
    written = 0

    def changed(key: str) -> tuple[str, bytes] | None:
        value = source.read(key)
        try:
            same = key in there and target.read(key) == value
        except NotFoundError:
            same = False
        return None if same else (key, value)

    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as pool:
        lows = range(0, len(names), workers)  # as many values are in memory beside the batch
        found = (each for low in lows for each in pool.map(changed, names[low : low + workers]) if each)
        for batch in batches(found, _AT_ONCE, _BYTES_AT_ONCE):
            target.write(batch)
            written += len(batch)
    gone = sorted(there - frozenset(names)) if mirror else []
    if gone:
        target.remove(gone)
    return written
