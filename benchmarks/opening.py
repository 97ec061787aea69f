"""Opens a store in a process of its own and says what it cost. `python -m benchmarks.opening STORE`.

Writer and followers take the same road: this one follows, so that it neither locks nor writes caches.
"""

import os
import sys
from time import perf_counter

import numpy as np
import orjson

import dvidzarr
from benchmarks.process import resident_mb
from benchmarks.volumes import voxels_of
from dvidzarr.core.geometry import Box


def main() -> None:
    store, mode = sys.argv[1:]
    dvidzarr.open(store, "r").close()  # imports, and the pages of the files
    before = resident_mb(os.getpid())
    start = perf_counter()
    with dvidzarr.open(store, mode) as catalog:
        instance = catalog.repos[0].instance("gray")
        view = voxels_of(instance.at())
        edge = np.iinfo(np.int32).max // 2
        view.reader(
            Box((edge,) * 3, (edge + 1,) * 3)
        )  # a place where nothing lies: looks up, reads no object
        seconds = perf_counter() - start
        rows = len(view.chunks.postings)
        print(orjson.dumps({"s": seconds, "MB": resident_mb(os.getpid()) - before, "rows": rows}).decode())


if __name__ == "__main__":
    main()
