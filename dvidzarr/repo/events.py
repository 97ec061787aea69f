"""What happened, as typed values. `eventsource` builds them from log records; their JSON: api/formats/events.md."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. `log` and `sequence` name the record; versions are named by their UUIDs."""

    repo: str
    """UUID of its root version."""
    log: str
    """Id of the log: of the repo, or of the instance."""
    sequence: int
    time: float
    """Seconds since 1970."""
    user: str
    app: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoCreated(Event):
    """A repo was made; its root version follows."""

    alias: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDescribed(Event):
    """Alias or description changed; both as they are now."""

    alias: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDeleted(Event):
    """A repo was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionAdded(Event):
    """A version was made; the first parent is its lineage."""

    version: str
    parents: tuple[str, ...]
    branch: str
    parent_branch: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCommitted(Event):
    """A version was locked."""

    version: str
    branch: str
    note: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteChanged(Event):
    """The note of a version was replaced."""

    version: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppended(Event):
    """Lines were added to the log of a version, or of the repo (`version` is "")."""

    version: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEvent(Event):
    """Something about one data instance: `instance` is its DataUUID, `name` what it was called then."""

    instance: str
    name: str
    type_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceCreated(InstanceEvent):
    """A data instance was made."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRenamed(InstanceEvent):
    """A data instance got another name."""

    old_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDeleted(InstanceEvent):
    """A data instance was deleted with its data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksWritten(InstanceEvent):
    """Chunks of an array were written, or deleted, at a version."""

    version: str
    scale: int
    mutation_id: int | None
    written: np.ndarray = field(compare=False)
    """Chunk coordinates (n, 3), z, y, x."""
    deleted: np.ndarray = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysPut(InstanceEvent):
    """Documents got values: (key, length of the value)."""

    version: str
    keys: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysDeleted(InstanceEvent):
    """Documents were deleted, whether they existed or not."""

    version: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtentsChanged(InstanceEvent):
    """The extents at a version were set: first voxel and first voxel outside, z, y, x."""

    version: str
    start: tuple[int, ...]
    stop: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged(InstanceEvent):
    """Tags or settings of an instance changed, by name."""

    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesLost(InstanceEvent):
    """A power loss took writes (durability `fast`): events with these sequences do not count."""

    sequences: tuple[int, ...]


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON has it: its kind under "event", then its members; keys as text."""
    members = {item.name: _plain(getattr(event, item.name)) for item in fields(event)}
    return {"event": type(event).__name__, **members}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
