"""What was deleted or collected: kept below `trash/` until it is purged."""

import os
import shutil

from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.openfiles import fail

FOLDER = "trash"


class Trash:
    """The trash of a store. Entries are what was moved there together: an instance, a repo, a collection of objects."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend

    def entries(self) -> list[str]:
        """Return the keys of the entries, sorted."""
        try:
            return [f"{FOLDER}/{name}" for name in sorted(os.listdir(self._backend.path(FOLDER)))]
        except FileNotFoundError:
            return []
        except OSError as error:
            fail(FOLDER, error)

    def holds(self, prefix: str) -> bool:
        """Tell whether the folder of an instance or a repo was moved here."""
        name = f"{FOLDER}/{LocalBackend.trash_name(prefix)}"
        return any(entry.rpartition("-")[0] == name for entry in self.entries())

    def since(self, entry: str) -> float:
        """Return when an entry came here, or something came into it, in seconds since 1970."""
        try:
            return os.stat(self._backend.path(entry), follow_symlinks=False).st_ctime
        except OSError as error:
            fail(entry, error)

    def measure(self, entry: str) -> tuple[int, int]:
        """Return the number of objects in an entry, and their bytes."""
        keys = list(self._backend.keys(entry)) or [entry]
        return len(keys), sum(self._backend.size(key) or 0 for key in keys)

    def purge(self, entry: str) -> None:
        """Remove an entry for good."""
        path = self._backend.path(entry)
        try:
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        except OSError as error:
            fail(entry, error)
