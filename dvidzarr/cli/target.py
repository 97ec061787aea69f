"""What commands work on: a store in a folder or a running server, behind one small interface."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from dvidzarr.core.errors import InvalidInputError, StorageError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import Author

if TYPE_CHECKING:
    import numpy as np

    from dvidzarr.cli.keys import Keys
    from dvidzarr.cli.regions import Region

XYZ = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version as the tree shows it; `parents` are UUIDs, the first one its lineage."""

    uuid: str
    number: int
    branch: str
    note: str
    locked: bool
    parents: tuple[str, ...]
    created: str


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """An instance as the tree shows it; `extents` are those of the newest master version."""

    name: str
    type_name: str
    extents: Box | None


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A repo: its versions in order of creation, its instances by name."""

    root: str
    alias: str
    description: str
    versions: tuple[VersionInfo, ...]
    instances: tuple[InstanceInfo, ...]

    def ancestors(self, version: VersionInfo) -> tuple[VersionInfo, ...]:
        """Return a version and all its ancestors, through every parent, parents first."""
        by_uuid = {each.uuid: each for each in self.versions}
        seen, waiting = {version.uuid}, [version]
        while waiting:
            fresh = [parent for parent in waiting.pop().parents if parent not in seen]
            seen.update(fresh)
            waiting += [by_uuid[parent] for parent in fresh]
        return tuple(each for each in self.versions if each.uuid in seen)


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What must be known to copy voxels into or out of an instance at a version."""

    name: str
    version: str
    data_uuid: str
    locked: bool
    dtype: "np.dtype[np.generic]"
    chunk: ZYX
    extents: Box | None
    voxel_size_xyz: XYZ = (8.0, 8.0, 8.0)
    voxel_units_xyz: tuple[str, str, str] = ("nanometers", "nanometers", "nanometers")
    type_name: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    """DVID's settings that make such an instance, as far as the server tells them."""


class Volume(Protocol):
    """A voxel instance at a version. Arrays are (z, y, x); safe to call from several threads."""

    info: VolumeInfo

    def read(self, box: Box) -> "np.ndarray":
        """Return the voxels of a box, 0 where none were written."""

    def write(self, box: Box, array: "np.ndarray") -> None:
        """Store the voxels of a box; what lies around it in the same blocks is kept."""

    def blocks(self, box: Box) -> "Iterator[tuple[ZYX, np.ndarray]]":
        """Yield (coordinate, block) of the blocks of an aligned box that exist."""

    def write_blocks(self, coords: Sequence[ZYX], blocks: "np.ndarray") -> None:
        """Store whole blocks (n, z, y, x), at distinct coordinates."""

    def extents(self) -> Box | None:
        """Return the extents as they are now; those in `info` are as they were."""

    def set_extents(self, box: Box) -> None:
        """Replace the extents of this version."""

    @property
    def position(self) -> int | None:
        """The last record of the instance's log; None where that is not told."""

    def kept(self, span: tuple[int, int]) -> bool:
        """Tell whether all records behind the first number, up to the second, are still there and count."""


class Target(Protocol):
    """A store to run a command on. A `ref` names a version; every method raises `DvidzarrError`."""

    where: str
    author: Author

    def repos(self) -> tuple[RepoInfo, ...]:
        """Return all repos, ordered by root."""

    def find(self, ref: str) -> tuple[RepoInfo, VersionInfo]:
        """Return the version that a reference names, and its repo."""

    def type_names(self) -> frozenset[str]:
        """Return the datatypes that instances can have here."""

    def create_repo(self, alias: str, description: str, root: str | None) -> str:
        """Make a repo and return the UUID of its root version."""

    def delete_repo(self, ref: str) -> None:
        """Remove the repo that holds a version."""

    def create_instance(self, ref: str, type_name: str, name: str, config: Mapping[str, str]) -> None:
        """Make an instance; `config` holds DVID's settings as texts."""

    def rename_instance(self, ref: str, old: str, new: str) -> None:
        """Give an instance a new name."""

    def delete_instance(self, ref: str, name: str) -> None:
        """Remove an instance with its data in all versions."""

    def has_instance(self, ref: str, name: str) -> bool:
        """Tell whether the repo of a version has an instance of this name."""

    def commit(self, ref: str, note: str) -> str:
        """Lock a version and return its UUID."""

    def new_version(self, ref: str, note: str, uuid: str | None = None) -> str:
        """Make a child on the same branch and return its UUID."""

    def branch(self, ref: str, name: str, note: str, uuid: str | None = None) -> str:
        """Make a child on a new branch and return its UUID."""

    def merge(self, refs: Sequence[str], note: str, uuid: str | None = None) -> str:
        """Make a child of several locked versions, the first its lineage, and return its UUID.

        DVID's API has no way to choose it.
        """

    def tag(self, ref: str, tag: str, note: str) -> str:
        """Make a locked child of which the tag is the UUID, and return that."""

    def conflicts(self, refs: Sequence[str]) -> Mapping[str, Any]:
        """Return what a merge of versions would leave in conflict: instance → report (`Conflicts.to_json`)."""

    def resolve(self, refs: Sequence[str], instances: Sequence[str], note: str) -> str:
        """Merge, where the first version wins the conflicts in these instances; return the UUID."""

    def volume(self, ref: str, name: str) -> Volume:
        """Open an instance at a version for reading and writing voxels."""

    def keys(self, ref: str, name: str) -> "Keys":
        """Open a key-value instance at a version."""

    def region(self, ref: str, name: str) -> "Region":
        """Open a region of interest at a version."""

    def close(self) -> None:
        """Release what is held."""

    def __enter__(self) -> "Target":
        """Return the target itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class Place:
    """An `REF/INSTANCE` argument."""

    ref: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Split at the last slash: branch names may hold slashes, instance names may not."""
        ref, slash, name = text.rpartition("/")
        if not slash or not name:
            raise click.BadParameter(
                f"{text!r} is not REF/INSTANCE, such as :master/grayscale", param_hint="REF/INSTANCE"
            )
        return cls(ref or ":master", name)


def is_url(store: str) -> bool:
    """Tell whether a STORE argument is the address of a server."""
    return store.startswith(("http://", "https://"))


def open_target(store: str, *, write: bool = False, create: bool = False) -> Target:
    """Open a STORE argument, to `write` to it; with `create` one that is missing is made.

    Raises
    ------
    StorageError
        There is no store at the path, and the command is not one that makes it.
    """
    if is_url(store):
        from dvidzarr.cli.remote import RemoteTarget  # noqa: PLC0415 - httpx is not needed for a path

        return RemoteTarget(store, author())
    if not create:
        require_store(store)
    from dvidzarr.cli.local import LocalTarget  # noqa: PLC0415 - the engine is not needed for a URL

    return LocalTarget(store, author(), write=write)


def require_store(store: str) -> None:
    """Raise unless a path holds a store: a typing error must not make an empty one."""
    if not (Path(store) / "store.json").exists():
        raise StorageError(
            f"there is no store at {store}; `dvidzarr serve {store}` or `dvidzarr new repo {store}` makes one"
        )


def require_path(store: str, command: str) -> None:
    """Raise for a URL: the command reads the files of a store."""
    if is_url(store):
        raise InvalidInputError(
            f"`dvidzarr {command}` reads the files of a store: give its path, on the machine of the server, "
            f"not {store}"
        )
    require_store(store)


def author() -> Author:
    """Return who the log shall name: the login name, as far as the environment tells it."""
    return Author(user=os.environ.get("USER") or os.environ.get("USERNAME") or "", app="dvidzarr")
