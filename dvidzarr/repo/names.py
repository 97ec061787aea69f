"""The UUIDs of all versions of a store, found by prefix, and the numbers that DVID gives them."""

import bisect
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dvidzarr.core.errors import ConflictError, InvalidInputError, NotFoundError
from dvidzarr.core.ids import is_uuid, new_id
from dvidzarr.repo.dag import Version

if TYPE_CHECKING:
    from dvidzarr.repo.repo import Repo


class VersionNames:
    """UUID → (repo, ordinal).

    `lock` makes "choose a name, then record it" one step for those who hold it, across a sync of the log; `_guard`
    protects the tables and is held for moments only, so that a look-up never waits for a disk.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._guard = threading.Lock()
        self._sorted: list[str] = []
        self._where: dict[str, tuple[Repo, int]] = {}
        self._number = 0

    def add(self, repo: "Repo", version: Version) -> None:
        """Register a version that a record made; nothing changes if it is registered."""
        with self._guard:
            at = bisect.bisect_left(self._sorted, version.uuid)
            if self._sorted[at : at + 1] != [version.uuid]:
                self._sorted.insert(at, version.uuid)
            self._where[version.uuid] = (repo, version.ordinal)
            self._number = max(self._number, version.number)

    def forget(self, repo: "Repo") -> None:
        """Drop the versions of a repo."""
        with self._guard:
            self._where = {uuid: place for uuid, place in self._where.items() if place[0] is not repo}
            self._sorted = sorted(self._where)

    def new_header(self, uuid: str | None, branch: str, parents: Sequence[str], note: str) -> dict[str, Any]:
        """Return the header of a `version` record, with the next number; the caller holds `lock`.

        Raises
        ------
        ConflictError
            The UUID names a version of this store already.
        """
        if uuid is None:
            uuid = new_id()
        elif uuid in self:
            raise ConflictError("UUID already exists in datastore")
        plain = is_uuid(uuid) and uuid == uuid.lower()
        header = {"uuid": uuid, "id": uuid if plain else new_id(), "number": self._number + 1}
        return {**header, "branch": branch, "parents": list(parents), "note": note}

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._where

    def match(self, prefix: str) -> "tuple[Repo, int]":
        """Return the version whose UUID is, or alone begins with, a text; raise with DVID's words."""
        exact = self._where.get(prefix)
        if exact is not None:
            return exact
        with self._guard:
            first = bisect.bisect_left(self._sorted, prefix)
            found = [uuid for uuid in self._sorted[first : first + 2] if uuid.startswith(prefix)]
        if not found:
            raise NotFoundError(f"could not find UUID with partial match to {prefix[:200]}")
        if len(found) > 1:
            raise InvalidInputError(f"more than one UUID matches {prefix}")
        return self._where[found[0]]
