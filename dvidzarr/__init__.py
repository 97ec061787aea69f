"""A versioned volume store for connectomics: plain Zarr, copy-on-write versions, DVID's HTTP API.

>>> import dvidzarr, tempfile, numpy as np
>>> store = dvidzarr.open(tempfile.mkdtemp())
>>> repo = store.create_repo("example")
>>> gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "64,64,64"})
>>> view = gray.at()
>>> view[0:64, 0:64, 0:64] = np.full((64, 64, 64), 7, np.uint8)
>>> int(view[10, 20, 30:32].sum())
14
>>> store.close()
"""

import os
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

__version__ = "0.1.0"


def open(
    path: str | os.PathLike[str],
    mode: str = "a",
    settings: "Settings | None" = None,
    *,
    full_write: bool = False,
) -> "Catalog":
    """Open a store.

    Parameters
    ----------
    path
        Its folder.
    mode
        "a" (default) reads, and takes the store's writer lock at the first change; "r" never writes data (a subscriber
        saves its cursors); "w" takes the lock now. "a" and "w" create the store if the folder is missing or empty.
    settings
        See `dvidzarr.core.settings.Settings`; default: the defaults.
    full_write
        Let locked versions be written: for repairs, since it breaks the promise that they never change.

    Returns
    -------
    Catalog
        Close it, or use it in a `with` statement.

    Raises
    ------
    InvalidInputError
        Another mode, or a URL: only folders are opened.
    StorageError
        The folder holds no store, or one of an unknown format version.
    BusyError
        Another process writes to the store (mode "w", or at the first change).
    ForbiddenError
        At the first change, in mode "r", or in a fork of the process: open it anew there to read.
    """
    from dvidzarr.core.errors import InvalidInputError  # noqa: PLC0415 - `import dvidzarr` loads nothing heavy
    from dvidzarr.core.settings import Settings  # noqa: PLC0415
    from dvidzarr.datatypes import BUILTIN  # noqa: PLC0415
    from dvidzarr.repo.catalog import Catalog  # noqa: PLC0415

    if "://" in os.fspath(path):  # as a path it would be made, an empty store
        raise InvalidInputError(f"{os.fspath(path)} is a URL: `dvidzarr.open` takes the folder of a store")
    return Catalog(path, mode, settings or Settings(), BUILTIN, _reader, full_write=full_write)


def _reader(url: str) -> "Catalog":
    """Return the store opened for reading, once per process: what unpickled views use. One made anew is another one."""
    from dvidzarr.repo.storefile import read_store  # noqa: PLC0415
    from dvidzarr.storage.local import LocalBackend  # noqa: PLC0415

    return _opened(url, read_store(LocalBackend(url)))


@lru_cache(maxsize=16)
def _opened(url: str, store_id: str | None) -> "Catalog":  # the id is a part of the key
    return open(url, "r")
