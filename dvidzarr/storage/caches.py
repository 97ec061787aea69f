"""The disposable caches of one instance: its state file and its document index, both stamped with a log position.

A stamp that does not fit the store, the instance, the versions or the log means: replay everything. Design: storage §8.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from crc32c import crc32c

from dvidzarr.core.errors import ForbiddenError, StorageError
from dvidzarr.storage.cache import StateFile, remove_file
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.logreader import Cursor
from dvidzarr.storage.merging import Versions
from dvidzarr.storage.runs import Run

_logger = logging.getLogger("dvidzarr.storage")
_FILES = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm")


class DatasetCaches:
    """Files below `folder`. Only the writing process (`owner`) changes them; others read copies."""

    def __init__(self, folder: Path, store_id: str, data_id: str, versions: Versions) -> None:
        self._folder = folder
        self._ids = (store_id, data_id)
        self._versions = versions
        self._state = StateFile(folder / "state")
        self._documents: Documents | None = None
        self._opening = threading.Lock()
        self.later: Callable[[Callable[[], None]], None] = lambda task: task()
        """As of `DocumentIndex`."""
        self.check_exists: Callable[[], None] = lambda: None
        """As of `Dataset`."""
        self.owner = False
        self._process = os.getpid()
        self._replaying = True
        self._closed = False

    def stamp(self, cursor: Cursor) -> dict[str, Any]:
        """Return what describes a state that reflects the log up to (at least) this cursor."""
        store, data = self._ids
        return {
            "store": store,
            "data": data,
            "cursor": asdict(cursor),
            "versions": self._versions.fingerprint(),
        }

    def load(self) -> tuple[Cursor, dict[str, Any], dict[int, tuple[Run, ...]]] | None:
        """Return (cursor, state, runs by scale); None, with the index dropped, if the caches cannot be used."""
        loaded = self._state.load()
        if loaded is not None:
            stamp, state, runs = loaded
            if self._fits(stamp) and self._index_fits(stamp, state["documents"]):
                return Cursor(**stamp["cursor"]), state, runs
        self.drop()
        return None

    def _fits(self, stamp: dict[str, Any]) -> bool:
        count = int(stamp["versions"].partition(" ")[0])
        return (stamp["store"], stamp["data"]) == self._ids and self._versions.fingerprint(count) == stamp[
            "versions"
        ]

    def _index_fits(self, stamp: dict[str, Any], checksum: int | None) -> bool:
        """Tell whether the index is the one that was saved with the state; without one there must be none."""
        if checksum is None:
            if self.owner:
                self._remove_index()
            return True
        try:
            if self.owner:
                if self._checksum() != checksum:  # SQLite would not notice a changed value
                    return False
                self._remove(_FILES[1:])  # all of it was in the file when it was marked
            else:
                data = (self._folder / _FILES[0]).read_bytes()
                if crc32c(data) != checksum:
                    return False
                self.documents.load(data)
            return self.documents.stamp() == _text(stamp)
        except (OSError, sqlite3.Error):
            return False

    def _checksum(self) -> int:
        checksum = 0
        with (self._folder / _FILES[0]).open("rb") as file:
            while piece := file.read(1 << 20):
                checksum = crc32c(piece, checksum)
        return checksum

    def save(
        self,
        stamp: dict[str, Any],
        state: dict[str, Any],
        runs: dict[int, tuple[Run, ...]],
        sync_log: Callable[[], None],
    ) -> None:
        """Write both; a failure is logged, since everything here can be rebuilt; one of `sync_log` is raised.

        Both may hold records from behind the stamp, so these must be durable before a power loss can leave the caches:
        else a record written afterwards gets the number of one that is lost, and is ignored as being there already. It
        is enough to sync before the state file: the index counts only with the state file that has its checksum. (What
        SQLite writes between two marks goes to its own log, uncommitted, and is dropped.)
        """
        if not self._mark(stamp):
            return
        try:
            checksum = self._checksum() if self.has_documents else None
            sync_log()
            self._state.save(stamp, {**state, "documents": checksum}, runs)
        except OSError as error:
            _logger.warning("%s: caches were not written: %s", self._folder, error)

    def _mark(self, stamp: dict[str, Any]) -> bool:
        """Commit the index; tell whether that succeeded."""
        try:
            if self._documents is not None:
                self._documents.mark(_text(stamp))
        except (sqlite3.Error, StorageError) as error:
            _logger.warning("%s: caches were not written: %s", self._folder, error)
            return False
        return True

    @property
    def has_documents(self) -> bool:
        """Whether the index was needed so far."""
        return self._documents is not None

    @property
    def documents(self) -> Documents:
        """The index of the documents, opened when first needed.

        In a fork of the owner its SQLite would take what the owner writes for damage, or write into its midst.
        """
        if self.owner and os.getpid() != self._process:
            if self._documents is None:  # there are none
                return self._in_memory()
            raise ForbiddenError(
                f"the keys in {self._folder} were opened by another process, of which this one is a fork: "
                f"open the store anew here to read"
            )
        with self._opening:
            if not self._closed:
                if self._documents is None:
                    self._documents = self._open() if self.owner else self._in_memory()
                    self._documents.later = self.later
                return self._documents
        self.check_exists()
        raise StorageError(f"the documents of {self._ids[1]} were closed")

    def _in_memory(self) -> Documents:
        return Documents(":memory:", self._versions, loading=self._replaying)

    def replayed(self) -> None:
        """Note that the log was read back: from now on the index is asked while it changes."""
        self._replaying = False
        if self._documents is not None:
            self._documents.loaded()

    def _open(self) -> Documents:
        """Open the index; anew if the file is damaged, in memory if there is no room for one."""
        path = str(self._folder / _FILES[0])
        for _ in range(2):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                return Documents(path, self._versions, loading=self._replaying)
            except (OSError, sqlite3.DatabaseError) as error:
                self._remove_index()
                problem = error
        _logger.warning("%s: the index is kept in memory: %s", path, problem)
        return self._in_memory()

    def take_over(self) -> None:
        """Become the owner: what was followed in memory replaces the files."""
        with self._opening:
            self._remove_index()
            self.owner = True
            followed = self._documents
        if followed is not None:
            self._keep(followed)

    def _keep(self, documents: Documents) -> None:
        """Put an index that lies elsewhere into its file, where the old one is gone."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            documents.move_to(str(self._folder / _FILES[0]))
        except (OSError, sqlite3.Error) as error:
            self._remove_index()
            _logger.warning("%s: the index is kept in memory: %s", self._folder, error)

    def adopt(self, others: "DatasetCaches") -> None:
        """Hold the documents of others, which were built anew, instead of these; the files follow with the next `save`."""
        if self.owner:
            self._state.remove()
        if self.has_documents or others.has_documents:
            documents = self.documents
            documents.take_over(others.documents)
            others._documents = None
            if self.owner:
                self._remove_index()
                self._keep(documents)
        others.drop()

    def drop(self) -> None:
        """Forget the index and, as the owner, remove the files: the log must be read back."""
        self._replaying = True
        self._close_index()
        if self.owner:
            self._state.remove()
            self._remove_index()

    def _remove_index(self) -> None:
        self._remove(_FILES)

    def _remove(self, names: tuple[str, ...]) -> None:
        for name in names:
            remove_file(self._folder / name)

    def close(self) -> None:
        """Close the index; nobody opens it again."""
        with self._opening:
            self._closed = True
            self._close_index()

    def _close_index(self) -> None:
        if self._documents is not None:
            self._documents.close()
            self._documents = None


def _text(stamp: dict[str, Any]) -> str:
    return orjson.dumps(stamp).decode()
