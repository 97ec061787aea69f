"""Events from log records: which record says what."""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dvidzarr.repo.events import (
    ChunksWritten,
    Event,
    ExtentsChanged,
    InstanceCreated,
    InstanceDeleted,
    InstanceRenamed,
    KeysDeleted,
    KeysPut,
    LogAppended,
    NoteChanged,
    RepoCreated,
    RepoDeleted,
    RepoDescribed,
    SettingsChanged,
    VersionAdded,
    VersionCommitted,
    WritesLost,
)
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.chunkrecords import rows_of
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.runs import TOMBSTONE
from dvidzarr.storage.words import DOCUMENT_KINDS, words_of

if TYPE_CHECKING:
    from dvidzarr.repo.state import InstanceRecord, RepoState


def repo_events(entry: Entry, repo_id: str, before: "RepoState", after: "RepoState") -> Iterator[Event]:
    """Yield what a record of a repo log says; the states are those around it."""
    build = _REPO_EVENTS.get(entry.kind)
    if build is not None and len(after.dag):
        about = _about(entry, after)
        about["log"] = repo_id
        about["time"] = datetime.fromisoformat(entry.header["t"]).timestamp()
        yield from build(entry.header, about, before, after)


def instance_events(entry: Entry, record: "InstanceRecord", state: "RepoState") -> Iterator[Event]:
    """Yield what a record of an instance log says."""
    about = _about(entry, state) | {"log": record.id} | _named(record)
    about["time"] = entry.header["t"]
    version = entry.header.get("at", entry.header.get("v", ""))
    ordinal = state.dag.by_id.get(version)
    about["version"] = "" if ordinal is None else state.dag.versions[ordinal].uuid
    if entry.kind in DOCUMENT_KINDS:
        yield from _documents(entry, about)
    elif entry.kind in _INSTANCE_EVENTS:
        yield _INSTANCE_EVENTS[entry.kind](entry, about)


def _about(entry: Entry, state: "RepoState") -> dict[str, Any]:
    header = entry.header
    return {
        "repo": state.dag.root.uuid,
        "sequence": entry.sequence,
        "user": header.get("u", ""),
        "app": header.get("a", ""),
    }


# --- repo logs -----------------------------------------------------------------------------------------------

Header = dict[str, Any]
_Build = Callable[[Header, Header, "RepoState", "RepoState"], Iterator[Event]]


def _uuid(state: "RepoState", version_id: str) -> str:
    return state.dag.versions[state.dag.by_id[version_id]].uuid


def _version(header: Header, about: Header, _: "RepoState", after: "RepoState") -> Iterator[Event]:
    added = after.dag.versions[after.dag.by_uuid[header["uuid"]]]
    parents = tuple(after.dag.versions[parent] for parent in added.parents)
    if not parents:
        yield RepoCreated(alias=after.alias, description=after.description, **about)
    yield VersionAdded(
        version=added.uuid,
        parents=tuple(parent.uuid for parent in parents),
        branch=added.branch,
        parent_branch=parents[0].branch if parents else "",
        note=added.note,
        **about,
    )


def _commit(header: Header, about: Header, _: "RepoState", after: "RepoState") -> Iterator[Event]:
    version = after.dag.versions[after.dag.by_id[header["v"]]]
    lines = tuple(header["log"])
    yield VersionCommitted(
        version=version.uuid, branch=version.branch, note=header["note"], lines=lines, **about
    )


def _note(header: Header, about: Header, _: "RepoState", after: "RepoState") -> Iterator[Event]:
    yield NoteChanged(version=_uuid(after, header["v"]), note=header["note"], **about)


def _lines(header: Header, about: Header, _: "RepoState", after: "RepoState") -> Iterator[Event]:
    version = _uuid(after, header["v"]) if "v" in header else ""
    yield LogAppended(version=version, lines=tuple(header["lines"]), **about)


def _describe(_: Header, about: Header, __: "RepoState", after: "RepoState") -> Iterator[Event]:
    yield RepoDescribed(alias=after.alias, description=after.description, **about)


def _instance(header: Header, about: Header, _: "RepoState", after: "RepoState") -> Iterator[Event]:
    record = after.record_of(header["id"])
    if record is not None:
        yield InstanceCreated(**about | _named(record), version=_uuid(after, header["v"]))


def _rename(header: Header, about: Header, before: "RepoState", after: "RepoState") -> Iterator[Event]:
    old, new = before.record_of(header["id"]), after.record_of(header["id"])
    if old is not None and new is not None:
        yield InstanceRenamed(**about | _named(new), old_name=old.name)


def _delete(header: Header, about: Header, before: "RepoState", _: "RepoState") -> Iterator[Event]:
    record = before.record_of(header["id"])
    if record is not None:
        yield InstanceDeleted(**about | _named(record))


def _named(record: "InstanceRecord") -> dict[str, str]:
    return {"instance": record.id, "name": record.name, "type_name": record.type_name}


def _gone(_: Header, about: Header, before: "RepoState", __: "RepoState") -> Iterator[Event]:
    for record in before.instances.values():
        yield InstanceDeleted(**about | _named(record))
    yield RepoDeleted(**about)


_REPO_EVENTS: dict[int, _Build] = {
    Kind.VERSION: _version,
    Kind.COMMIT: _commit,
    Kind.NOTE: _note,
    Kind.REPO_LOG: _lines,
    Kind.ALIAS: _describe,
    Kind.INSTANCE: _instance,
    Kind.RENAME: _rename,
    Kind.DELETE_INSTANCE: _delete,
    Kind.DELETE_REPO: _gone,
}


# --- instance logs -------------------------------------------------------------------------------------------


def _documents(entry: Entry, about: Header) -> Iterator[Event]:
    """Yield one event for each run of values, or of deletions, in the order of the record."""
    for deleted, words in groupby(words_of(entry), lambda word: word.length is None):
        keys = [(bytes(entry.payload[word.start : word.value_start]), word.length or 0) for word in words]
        if deleted:
            yield KeysDeleted(keys=tuple(key for key, _ in keys), **about)
        else:
            yield KeysPut(keys=tuple(keys), **about)


def _chunks(entry: Entry, about: Header) -> Event:
    keys, rows = rows_of(entry.payload, 0, entry.sequence)
    coords, gone = unpack(keys), rows["flags"] & TOMBSTONE != 0
    return ChunksWritten(
        scale=entry.header["s"],
        mutation_id=entry.header.get("m"),
        written=coords[~gone],
        deleted=coords[gone],
        **about,
    )


def _extents(entry: Entry, about: Header) -> Event:
    start, stop = entry.header["box"]
    return ExtentsChanged(start=tuple(start), stop=tuple(stop), **about)


def _settings(entry: Entry, about: Header) -> Event:
    changed = {name: value for name, value in entry.header.items() if name not in {"t", "u", "a", "v"}}
    return SettingsChanged(settings=changed, **_without_version(about))


def _void(entry: Entry, about: Header) -> Event:
    return WritesLost(sequences=tuple(entry.header["sequences"]), **_without_version(about))


def _without_version(about: Header) -> Header:
    return {name: value for name, value in about.items() if name != "version"}


_INSTANCE_EVENTS: dict[int, Callable[[Entry, Header], Event]] = {
    Kind.CHUNKS: _chunks,
    Kind.EXTENTS: _extents,
    Kind.SETTINGS: _settings,
    Kind.VOID: _void,
}
