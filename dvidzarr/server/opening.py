"""How a server opens its store."""

import time
from typing import TYPE_CHECKING

import dvidzarr
from dvidzarr.core.errors import BusyError

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

_PATIENCE_S = 5.0
"""For the writer before: after a server was killed, its processes finish what runs before they let go of the store."""
_PAUSE_S = 0.1


def open_store(store: str, settings: "Settings", *, write: bool) -> "Catalog":
    """Open the store that is to be served; one that another process is about to let go of is waited for.

    Raises
    ------
    BusyError
        Another process goes on writing to it.
    StorageError
        The folder holds no store.
    """
    until = time.monotonic() + _PATIENCE_S
    mode = "w" if write else "r"
    while True:
        try:
            return dvidzarr.open(store, mode, settings, full_write=settings.server.full_write)
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
