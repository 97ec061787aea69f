"""What a repo's log says, as a value: `applied` takes in one record and returns the next state. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from immutables import Map

from dvidzarr.core.errors import CorruptionError
from dvidzarr.repo.dag import Version, VersionDAG
from dvidzarr.storage.frames import Entry, Kind

FIRST_MUTATION = 1_000_000_000
"""DVID counts mutations from here."""
IDS_AT_ONCE = 1000
"""So many ids of mutations a record reserves."""

Changes = dict[str, Any]
"""Members of a `RepoState` that a record changes, and their new values."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """The identity of an instance. `created_at` is an ordinal; `config` what the datatype made of its settings."""

    id: str
    name: str
    type_name: str
    created_at: int
    versioned: bool
    compression: str
    checksum: str
    tags: dict[str, str] | None
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RepoState:
    """A repo at one position of its log."""

    dag: VersionDAG = field(default_factory=VersionDAG)
    instances: Mapping[str, InstanceRecord] = field(default_factory=dict)
    """By name."""
    seals: Map[str, int] = Map()
    """Instance id → the last sequence of its log for which a commit vouches."""
    commits: Map[int, Map[str, int]] = Map()
    """Ordinal of a locked version → the seals when it was committed; they share what they have in common."""
    amended: frozenset[int] = frozenset()
    """Ordinals of locked versions that may have been written since, in a store opened with `full_write`."""
    alias: str = ""
    description: str = ""
    passcode: str = ""
    log: tuple[str, ...] = ()
    created: str = ""
    updated: str = ""
    ids_upto: int = FIRST_MUTATION
    deleted: tuple[str, ...] = ()
    """Ids of deleted instances."""
    gone: bool = False
    incomplete: bool = False
    """Whether damaged records were given up: versions that others name may be among them."""
    lost: tuple[tuple[int, str], ...] = ()
    """Of each record that needs a version which was given up: its sequence, and the id of that version."""
    sequence: int = 0
    """The last record that changed anything."""

    def applied(self, entry: Entry) -> "RepoState":
        """Return the state after one more record; kinds of other logs change nothing.

        What needs a version that was given up is lost with it: what such a version showed can be known no more.
        """
        change = _CHANGES.get(Kind(entry.kind))
        try:
            return (
                self
                if change is None
                else replace(
                    self,
                    sequence=entry.sequence,
                    updated=entry.header.get("t", self.updated),
                    **change(self, entry.header),
                )
            )
        except KeyError as error:  # after a gap in a damaged log
            if self.incomplete and len(self.dag):  # without a root there is no repo
                lost = (entry.sequence, str(error.args[0]))
                return replace(self, sequence=entry.sequence, lost=(*self.lost, lost))
            raise CorruptionError(
                f"record {entry.sequence} of the repo's log needs {error}, which is lost"
            ) from None

    def record_of(self, instance_id: str) -> InstanceRecord | None:
        """Return the instance with an id, None if it does not exist (any more)."""
        return next((record for record in self.instances.values() if record.id == instance_id), None)

    def sealed_sequence(self, ordinal: int, instance_id: str) -> int | None:
        """Return the last record of an instance that can concern a version; None if any later one can."""
        seals = self.commits.get(ordinal)
        return None if seals is None or ordinal in self.amended else seals.get(instance_id, 0)


def _repo(state: RepoState, header: dict[str, Any]) -> Changes:
    about = {name: header[name] for name in ("alias", "description", "passcode")}
    return {"created": header["t"], **about}


def _version(state: RepoState, header: dict[str, Any]) -> Changes:
    dag = state.dag
    version = Version(
        uuid=header["uuid"],
        id=header["id"],
        ordinal=len(dag),
        number=header["number"],
        branch=header["branch"],
        parents=tuple(dag.by_id[parent] for parent in header["parents"]),
        created=header["t"],
        updated=header["t"],
        note=header.get("note", ""),
    )
    dag = dag.with_version(version)
    for parent in version.parents:  # locked, also if the record of its commit was given up
        dag = dag.with_change(parent, locked=True, updated=header["t"])
    return {"dag": dag}


def _commit(state: RepoState, header: dict[str, Any]) -> Changes:
    ordinal = state.dag.by_id[header["v"]]
    old = state.dag.versions[ordinal]
    log = old.log + tuple(header["log"])
    note = header["note"] or old.note
    seals = state.seals.update({name: sequence for name, (sequence, _) in header["seals"].items()})
    dag = state.dag.with_change(ordinal, locked=True, note=note, log=log, updated=header["t"])
    return {"dag": dag, "seals": seals, "commits": state.commits.set(ordinal, seals)}


def _amend(state: RepoState, header: dict[str, Any]) -> Changes:
    return {"amended": state.amended | {state.dag.by_id[header["v"]]}}


def _note(state: RepoState, header: dict[str, Any]) -> Changes:
    ordinal = state.dag.by_id[header["v"]]
    return {"dag": state.dag.with_change(ordinal, note=header["note"], updated=header["t"])}


def _log(state: RepoState, header: dict[str, Any]) -> Changes:
    lines = tuple(header["lines"])
    if "v" not in header:
        return {"log": state.log + lines}
    ordinal = state.dag.by_id[header["v"]]
    log = state.dag.versions[ordinal].log + lines
    return {"dag": state.dag.with_change(ordinal, log=log, updated=header["t"])}


def _describe(state: RepoState, header: dict[str, Any]) -> Changes:
    return {name: header[name] for name in ("alias", "description") if name in header}


def _instance(state: RepoState, header: dict[str, Any]) -> Changes:
    record = InstanceRecord(
        id=header["id"],
        name=header["name"],
        type_name=header["type"],
        created_at=state.dag.by_id.get(header["v"], 0) if state.incomplete else state.dag.by_id[header["v"]],
        versioned=header["versioned"],
        compression=header["compression"],
        checksum=header["checksum"],
        tags=header["tags"],
        config=header["config"],
    )
    return {"instances": _with(state.instances, record), "log": (*state.log, header["line"])}


def _with(instances: Mapping[str, InstanceRecord], record: InstanceRecord) -> dict[str, InstanceRecord]:
    """Return instances with one more, or with its new name.

    Another one of that name gets one with its id: the record by which it lost its name was given up, not its data.
    """
    others = {name: other for name, other in instances.items() if other.id != record.id}
    older = others.pop(record.name, None)
    if older is not None:
        name = f"{older.name}-{older.id[:8]}"
        others[name] = replace(older, name=name)
    return {**others, record.name: record}


def _rename(state: RepoState, header: dict[str, Any]) -> Changes:
    record = state.record_of(header["id"])
    if record is None:
        return {}
    renamed = replace(record, name=header["name"])
    return {"instances": _with(state.instances, renamed), "log": (*state.log, header["line"])}


def _delete_instance(state: RepoState, header: dict[str, Any]) -> Changes:
    others = {name: other for name, other in state.instances.items() if other.id != header["id"]}
    seals = state.seals.delete(header["id"]) if header["id"] in state.seals else state.seals
    return {
        "instances": others,
        "seals": seals,
        "deleted": (*state.deleted, header["id"]),
        "log": (*state.log, header["line"]),
    }


def _ids(state: RepoState, header: dict[str, Any]) -> Changes:
    return {"ids_upto": header["upto"]}


def _lost(state: RepoState, header: dict[str, Any]) -> Changes:
    return {"incomplete": True, "ids_upto": state.ids_upto + IDS_AT_ONCE}  # it may have reserved so many


def _gone(state: RepoState, header: dict[str, Any]) -> Changes:
    return {"gone": True, "instances": {}}


_CHANGES: dict[Kind, Callable[[RepoState, dict[str, Any]], Changes]] = {
    Kind.REPO: _repo,
    Kind.VERSION: _version,
    Kind.COMMIT: _commit,
    Kind.AMEND: _amend,
    Kind.NOTE: _note,
    Kind.REPO_LOG: _log,
    Kind.ALIAS: _describe,
    Kind.INSTANCE: _instance,
    Kind.RENAME: _rename,
    Kind.DELETE_INSTANCE: _delete_instance,
    Kind.IDS: _ids,
    Kind.DELETE_REPO: _gone,
    Kind.LOST: _lost,
}
