"""A store in a folder, through the engine."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import dvidzarr
from dvidzarr.cli.keys import LocalKeys
from dvidzarr.cli.regions import LocalRegion
from dvidzarr.cli.target import InstanceInfo, RepoInfo, VersionInfo, VolumeInfo
from dvidzarr.core.errors import BusyError, InvalidInputError, NotFoundError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.keyvalue.model import KeyValueView
from dvidzarr.datatypes.roi.model import RoiView
from dvidzarr.datatypes.voxels.view import VoxelView

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo

V = TypeVar("V", VoxelView, KeyValueView, RoiView)


class LocalVolume:
    """A voxel instance at a version of a store in a folder."""

    def __init__(self, view: "VoxelView", author: Author) -> None:
        instance, version = view.instance, view.version
        self.info = VolumeInfo(
            name=instance.name,
            version=version.uuid,
            data_uuid=instance.uuid,
            locked=version.locked and instance.versioned,
            dtype=instance.dtype,
            chunk=instance.chunk,
            extents=view.extents,
            voxel_size_xyz=instance.settings.voxel_size_xyz,
            voxel_units_xyz=instance.settings.voxel_units_xyz,
            type_name=instance.datatype.name,
        )
        self._view = view
        self._author = author

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box, 0 where none were written."""
        return self._view.read(box)

    def write(self, box: Box, array: np.ndarray) -> None:
        """Store the voxels of a box; the engine keeps what lies around it in the same blocks."""
        self._view.write(box, array, author=self._author)

    def blocks(self, box: Box) -> Iterator[tuple[ZYX, np.ndarray]]:
        """Yield (coordinate, block) of the blocks of an aligned box that exist."""
        for coord, block in self._view.blocks(box.chunks(self.info.chunk)):
            if block is not None:
                yield coord, block

    def write_blocks(self, coords: Sequence[ZYX], blocks: np.ndarray) -> None:
        """Store whole blocks, as one request."""
        self._view.write_blocks(np.array(coords), blocks, author=self._author)

    def extents(self) -> Box | None:
        """Return the extents as they are now."""
        return self._view.extents

    def set_extents(self, box: Box) -> None:
        """Replace the extents of this version."""
        self._view.set_extents(box, author=self._author)

    @property
    def position(self) -> int:
        """The last record of the instance's log."""
        return self._view.instance.dataset.log.tail.sequence

    def kept(self, span: tuple[int, int]) -> bool:
        """Tell whether all records behind the first number, up to the second, are still there and count."""
        after, upto = span
        return upto <= self.position and not any(
            after < number <= upto for number in self._view.instance.dataset.voided
        )


class LocalTarget:
    """A store in a folder. Opened for writing it holds the writer's lock from the start: a copy fails early."""

    def __init__(self, path: str, author: Author, *, write: bool) -> None:
        self.where = path
        self.author = author
        with _named_way():
            self._catalog = dvidzarr.open(path, mode="w" if write else "r", settings=Settings.load())

    def repos(self) -> tuple[RepoInfo, ...]:
        """Return all repos, ordered by root."""
        return tuple(_repo_info(repo) for repo in self._catalog.repos)

    def find(self, ref: str) -> tuple[RepoInfo, VersionInfo]:
        """Return the version that a reference names, and its repo."""
        repo, version = self._catalog.resolve(ref)
        info = _repo_info(repo)
        return info, info.versions[version.ordinal]

    def type_names(self) -> frozenset[str]:
        """Return the datatypes of the registry."""
        return frozenset(self._catalog.registry)

    def create_repo(self, alias: str, description: str, root: str | None) -> str:
        """Make a repo and return the UUID of its root version."""
        return self._catalog.create_repo(alias, description, root=root, author=self.author).root

    def delete_repo(self, ref: str) -> None:
        """Remove the repo that holds a version."""
        self._catalog.delete_repo(ref, author=self.author)

    def create_instance(self, ref: str, type_name: str, name: str, config: Mapping[str, str]) -> None:
        """Make an instance; `config` holds DVID's settings as texts."""
        repo, version = self._catalog.resolve(ref)
        repo.create_instance(type_name, name, config, version, author=self.author)

    def rename_instance(self, ref: str, old: str, new: str) -> None:
        """Give an instance a new name."""
        repo, _ = self._catalog.resolve(ref)
        repo.rename_instance(old, new, author=self.author)

    def delete_instance(self, ref: str, name: str) -> None:
        """Remove an instance with its data in all versions."""
        repo, _ = self._catalog.resolve(ref)
        repo.delete_instance(name, author=self.author)

    def has_instance(self, ref: str, name: str) -> bool:
        """Tell whether the repo of a version has an instance of this name."""
        repo, _ = self._catalog.resolve(ref)
        return name in repo.instances

    def commit(self, ref: str, note: str) -> str:
        """Lock a version and return its UUID."""
        repo, version = self._catalog.resolve(ref)
        return repo.commit(version, note=note, author=self.author).uuid

    def new_version(self, ref: str, note: str, uuid: str | None = None) -> str:
        """Make a child on the same branch and return its UUID."""
        repo, version = self._catalog.resolve(ref)
        return repo.new_version(version, note=note, uuid=uuid, author=self.author).uuid

    def branch(self, ref: str, name: str, note: str, uuid: str | None = None) -> str:
        """Make a child on a new branch and return its UUID."""
        repo, version = self._catalog.resolve(ref)
        return repo.branch(version, name, note=note, uuid=uuid, author=self.author).uuid

    def tag(self, ref: str, tag: str, note: str) -> str:
        """Make a locked child of which the tag is the UUID, and return that."""
        repo, version = self._catalog.resolve(ref)
        return repo.tag(version, tag, note=note, author=self.author).uuid

    def merge(self, refs: Sequence[str], note: str, uuid: str | None = None) -> str:
        """Make a child of several locked versions, the first its lineage, and return its UUID."""
        repo, versions = self._together(refs)
        return repo.merge(versions, note=note, uuid=uuid, author=self.author).uuid

    def conflicts(self, refs: Sequence[str]) -> Mapping[str, Any]:
        """Return what a merge of versions would leave in conflict, per instance."""
        repo, versions = self._together(refs)
        return {each.instance: each.to_json() for each in repo.conflicts(versions)}

    def resolve(self, refs: Sequence[str], instances: Sequence[str], note: str) -> str:
        """Merge, where the first version wins the conflicts in these instances; return the UUID."""
        repo, versions = self._together(refs)
        return repo.resolve_merge(versions, instances, note, self.author).uuid

    def _together(self, refs: Sequence[str]) -> "tuple[Repo, list[Version]]":
        found = [self._catalog.resolve(ref) for ref in refs]
        repo = found[0][0]
        strange = next((ref for ref, (other, _) in zip(refs, found, strict=True) if other is not repo), None)
        if strange is not None:
            raise InvalidInputError(f"{strange} and {refs[0]} are versions of different repos")
        return repo, [version for _, version in found]

    def volume(self, ref: str, name: str) -> LocalVolume:
        """Open an instance at a version for reading and writing voxels."""
        return LocalVolume(self._view(ref, name, VoxelView, "holds no voxels"), self.author)

    def keys(self, ref: str, name: str) -> LocalKeys:
        """Open a key-value instance at a version."""
        return LocalKeys(self._view(ref, name, KeyValueView, "holds no keys"), self.author)

    def region(self, ref: str, name: str) -> LocalRegion:
        """Open a region of interest at a version."""
        return LocalRegion(self._view(ref, name, RoiView, "is no region"), self.author)

    def _view(self, ref: str, name: str, kind: type[V], otherwise: str) -> V:
        repo, version = self._catalog.resolve(ref)
        if name not in repo.instances:
            raise NotFoundError(f"repo {repo.root} has no instance {name!r}")
        view = repo.instance(name).at(version)
        if not isinstance(view, kind):
            raise InvalidInputError(f"{name!r} is of type {view.instance.datatype.name}, which {otherwise}")
        return view

    def close(self) -> None:
        """Close the store and give the lock back."""
        self._catalog.close()

    def __enter__(self) -> "LocalTarget":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _named_way() -> Iterator[None]:
    """Add to a refused lock what to do about it."""
    try:
        yield
    except BusyError as error:
        if "http://" in str(error):
            raise
        way = "if it is a server, give its URL (http://host:port) in place of the path"
        raise BusyError(f"{error}; {way}") from None


def _repo_info(repo: "Repo") -> RepoInfo:
    dag = repo.dag
    versions = tuple(
        VersionInfo(
            uuid=version.uuid,
            number=version.number,
            branch=version.branch,
            note=version.note,
            locked=version.locked,
            parents=tuple(dag.versions[ordinal].uuid for ordinal in version.parents),
            created=version.created,
        )
        for version in dag
    )
    instances = tuple(
        InstanceInfo(name, instance.datatype.name, getattr(instance.at(), "extents", None))
        for name, instance in sorted(repo.instances.items())
    )
    return RepoInfo(repo.root, repo.alias, repo.description, versions, instances)
