"""The events of one repo, from its log and the logs of its instances, from durable cursors on. Used by one thread."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson

from dvidzarr.repo.events import Event
from dvidzarr.repo.eventsource import instance_events, repo_events
from dvidzarr.repo.state import InstanceRecord, RepoState
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.logreader import Cursor, LogReader

_logger = logging.getLogger("dvidzarr.events")

_TRASH_SUFFIX = 9
"""Characters that `trash` adds to a folder's name: a dash and 8 hex digits."""

Deliver = Callable[[Event], None]


class RepoFeed:
    """Reads on in the logs of a repo and hands out events, in the order of each log.

    What an instance log says about a version comes after the event that the version was made. The logs of what was
    deleted meanwhile are read to their end, as long as they lie in the trash.
    """

    def __init__(
        self, backend: LocalBackend, store_id: str, repo_id: str, saved: bytes | None, deliver: Deliver
    ) -> None:
        self._backend = backend
        self._store_id = store_id
        self._repo_id = repo_id
        self._deliver = deliver
        self.moved = False
        """Whether anything was read since the cursors were asked for."""
        self._state = RepoState()
        self._readers: dict[str, LogReader] = {}
        cursors = {name: Cursor(**place) for name, place in orjson.loads(saved or b"{}").items()}
        self._before = cursors.pop(repo_id, None)
        self._cursors: dict[str, Cursor] = cursors
        self._records: dict[str, InstanceRecord] = {}
        self._log = self._reader(f"repos/{repo_id}", repo_id, self._take)
        if self._before is not None and not self._log_holds(self._before):
            self._set_back(repo_id)
            self._before = None

    def advance(self) -> None:
        """Hand out what was published since the last call."""
        self._log.follow()
        for instance_id in list(self._records):
            self._instance(instance_id).follow()

    def saved(self) -> bytes:
        """Return the cursors behind all that was handed out, for the next feed to begin with."""
        self.moved = False
        cursors = dict(self._cursors)
        cursors |= {instance_id: reader.cursor for instance_id, reader in self._readers.items()}
        own = self._log.cursor
        if self._before is not None and own.sequence < self._before.sequence:  # still reading up to it
            own = self._before
        places: dict[str, Any] = {self._repo_id: asdict(own)}
        places |= {name: asdict(cursor) for name, cursor in cursors.items()}
        return orjson.dumps({name: place for name, place in places.items() if place["sequence"]})

    def close(self) -> None:
        """Close the logs."""
        for reader in (self._log, *self._readers.values()):
            reader.close()

    # --- logs ------------------------------------------------------------------------------------------------

    def _reader(self, prefix: str, log_id: str, apply: Callable[[Entry], None]) -> LogReader:
        return LogReader(self._backend, f"{self._found(prefix)}/log", (self._store_id, log_id), apply)

    def _found(self, prefix: str) -> str:
        """Return where a folder lies: in its place, in the trash, or in a repo that is in the trash."""
        if self._backend.size(f"{prefix}/log/applied") is not None:
            return prefix
        repo = f"repos/{self._repo_id}"
        for name in self._backend.folders("trash"):
            for whole in (prefix, repo):
                place = f"trash/{name}{prefix.removeprefix(whole)}"
                named = name[:-_TRASH_SUFFIX] == whole.replace("/", "-")
                if named and self._backend.size(f"{place}/log/applied") is not None:
                    return place
        return prefix

    def _log_holds(self, cursor: Cursor) -> bool:
        probe = self._reader(f"repos/{self._repo_id}", self._repo_id, lambda _: None)
        return probe.resume(cursor)

    def _set_back(self, log_id: str) -> None:
        _logger.warning(
            "the log %s does not hold the record up to which its events were handed out: all come again",
            log_id,
        )

    def _instance(self, instance_id: str) -> LogReader:
        reader = self._readers.get(instance_id)
        if reader is None:
            reader = self._new_reader(instance_id, self._cursors.pop(instance_id, None))
        return reader

    def _new_reader(self, instance_id: str, cursor: Cursor | None) -> LogReader:
        prefix = f"repos/{self._repo_id}/data/{instance_id}"
        reader = self._reader(prefix, instance_id, lambda entry: self._take_of(instance_id, entry))
        if cursor is not None and cursor.sequence and not reader.resume(cursor):
            self._set_back(instance_id)
        self._readers[instance_id] = reader
        return reader

    # --- records ---------------------------------------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        """Take in a record of the repo log; those up to the cursor only build the state."""
        known = self._before is not None and entry.sequence <= self._before.sequence
        self.moved = True
        before = self._state
        self._state = before.applied(entry)
        if entry.kind in {Kind.INSTANCE, Kind.RENAME}:
            self._records |= {record.id: record for record in self._state.instances.values()}
        elif entry.kind in {Kind.DELETE_INSTANCE, Kind.DELETE_REPO}:
            for record in before.instances.values():
                if self._state.record_of(record.id) is None:
                    self._end(record.id, read_on=not known)
        if not known:
            for event in repo_events(entry, self._repo_id, before, self._state):
                self._deliver(event)

    def _end(self, instance_id: str, *, read_on: bool) -> None:
        """Hand out the last events of a deleted instance and forget it."""
        if read_on and instance_id in self._records:
            old = self._readers.pop(instance_id, None)
            cursor = self._cursors.pop(instance_id, None) if old is None else old.cursor
            if old is not None:
                old.close()
            self._new_reader(instance_id, cursor).follow()
        self._records.pop(instance_id, None)
        self._cursors.pop(instance_id, None)
        reader = self._readers.pop(instance_id, None)
        if reader is not None:
            reader.close()

    def _take_of(self, instance_id: str, entry: Entry) -> None:
        self.moved = True
        version = entry.header.get("at", entry.header.get("v"))
        if version is not None and version not in self._state.dag.by_id:
            self._log.follow()  # the version was made after the repo log was read
        for event in instance_events(entry, self._records[instance_id], self._state):
            self._deliver(event)
