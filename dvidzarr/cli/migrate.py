"""`dvidzarr ingest STORE REF/INSTANCE dvid://…`: copy instances of a running DVID, one version or their history."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import click

from dvidzarr.cli.blockcopy import CopyOptions, copy_volume, plan_of
from dvidzarr.cli.bricks import Journal
from dvidzarr.cli.checks import check_open
from dvidzarr.cli.documentcopy import copy_keys, copy_region
from dvidzarr.cli.remote import RemoteTarget
from dvidzarr.cli.session import SOURCE_TOKEN
from dvidzarr.cli.target import Place, RepoInfo, Target, VersionInfo, Volume, author
from dvidzarr.core.errors import InvalidInputError, NotFoundError, VersionLockedError
from dvidzarr.core.ids import is_uuid

_DOCUMENTS = frozenset({"keyvalue", "roi"})
_ADDRESS = re.compile(r"dvid://((?:https?://)?[^/?#\s]+)/([^/?#]+)/([^/?#]+)/?")


@dataclass(frozen=True, slots=True)
class Origin:
    """A `dvid://host:port/uuid/instance` argument."""

    url: str
    ref: str
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Split an address; the host may have a scheme of its own, as Neuroglancer writes it."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidInputError(f"{text!r} is not dvid://host:port/uuid/instance")
        host, ref, names = found.groups()
        return cls(host if "://" in host else f"http://{host}", ref, tuple(names.split(",")))

    def open(self) -> RemoteTarget:
        """Connect: nothing is asked yet."""
        return RemoteTarget(self.url, author(), SOURCE_TOKEN)


@dataclass(frozen=True, slots=True)
class Copy:
    """Instances on their way from a server into a store: source names and target names, in pairs."""

    source: RemoteTarget
    target: Target
    names: tuple[tuple[str, str], ...]
    create: bool
    config: Mapping[str, str]
    """Settings of new instances that differ from the source's."""

    options: CopyOptions
    documents: Mapping[str, str]
    """Source name → type, of those that are no volumes."""

    def version(self, version: str, here: str) -> None:
        """Copy all instances as they are at one version into another, which is open."""
        for theirs, ours in self.names:
            if theirs in self.documents:
                self._copy_documents(version, here, theirs, ours)
                continue
            source = self.source.volume(version, theirs)
            target = self._volume(here, ours, source)
            check_open(self.target, target.info)
            plan = plan_of(self.source.where, source, self.target.where, target, self.options)
            if plan is None:
                click.echo(f"{theirs} at {version} is empty", err=True)
            else:
                copy_volume(source, target, plan, self.options)

    def is_done(self, version: str, here: VersionInfo) -> bool:
        """Tell whether an earlier run has completed a version: it locks what is complete.

        Raises
        ------
        VersionLockedError
            It was locked although something is missing.
        """
        if not here.locked:
            return False
        for theirs, ours in self.names:
            if not self.target.has_instance(here.uuid, ours):
                raise VersionLockedError(
                    f"version {here.uuid} is locked and has no instance {ours!r}: instances with a common history "
                    f"must be copied together, as REF/{','.join(name for _, name in self.names)}"
                )
            if theirs in self.documents:
                continue
            source, target = self.source.volume(version, theirs), self.target.volume(here.uuid, ours)
            plan = plan_of(self.source.where, source, self.target.where, target, self.options)
            if plan is not None and Journal.place(plan).exists():
                raise VersionLockedError(
                    f"version {here.uuid} was locked while {ours!r} was copied: parts of it are missing"
                )
        return True

    def _copy_documents(self, version: str, here: str, theirs: str, ours: str) -> None:
        """Copy the values of keys, or a region of interest."""
        kind = self.documents[theirs]
        self._make(here, ours, kind, self.source.config(version, theirs))
        if kind == "roi":
            count = copy_region(self.source.region(version, theirs), self.target.region(here, ours))
        else:
            keys = self.source.keys(version, theirs), self.target.keys(here, ours)
            count = copy_keys(*keys, self.options.workers, mirror=self.options.mirror)
        click.echo(f"{ours} at {here}: {count} {'spans' if kind == 'roi' else 'values'} written", err=True)

    def _volume(self, here: str, name: str, source: Volume) -> Volume:
        """Open an instance of the target, made first if it is missing."""
        info = source.info
        self._make(here, name, info.type_name, {**info.config, **self.config})
        target = self.target.volume(here, name)
        if (target.info.type_name, target.info.dtype) != (info.type_name, info.dtype):
            raise InvalidInputError(
                f"the source is of type {info.type_name}, instance {name!r} of type {target.info.type_name}"
            )
        return target

    def _make(self, here: str, name: str, type_name: str, config: Mapping[str, str]) -> None:
        if self.target.has_instance(here, name):
            return
        if not self.create:
            raise NotFoundError(f"there is no instance {name!r} and --no-create was given")
        if type_name not in self.target.type_names():
            raise InvalidInputError(f"the source is of type {type_name}, which is unknown here")
        self.target.create_instance(here, type_name, name, config)


class History:
    """The versions of a source made anew in a target: same branches, notes and, where they are free, UUIDs."""

    def __init__(self, copy: Copy, ref: str) -> None:
        self._copy = replace(copy, options=replace(copy.options, mirror=True))
        self._source, self._target = copy.source, copy.target
        self._repo, head = self._source.find(ref)
        self._versions = self._repo.ancestors(head)
        self._taken = {each.uuid for repo in self._target.repos() for each in repo.versions}

    def run(self, root: str) -> None:
        """Copy version by version, parents first; the root becomes the version `root`, which may not exist yet."""
        here = {self._versions[0].uuid: self._root(root)}
        for number, version in enumerate(self._versions, 1):
            if version.uuid not in here:
                here[version.uuid] = self._child(version, [here[parent] for parent in version.parents])
            _, mine = self._target.find(here[version.uuid])
            if self._copy.is_done(version.uuid, mine):
                continue
            click.echo(f"version {number} of {len(self._versions)}: {version.uuid}", err=True)
            self._copy.version(version.uuid, mine.uuid)
            if version.locked:
                self._target.commit(mine.uuid, version.note)

    def _root(self, ref: str) -> str:
        try:
            return self._target.find(ref)[1].uuid
        except (NotFoundError, InvalidInputError):
            if ref != self._versions[0].uuid:
                raise
        return self._target.create_repo(self._repo.alias, self._repo.description, ref)

    def _child(self, version: VersionInfo, parents: Sequence[str]) -> str:
        """Return the counterpart of a version below those of its parents; made if there is none."""
        repo, above = self._target.find(parents[0])
        free = version.uuid not in self._taken
        known = _counterpart(repo, version, parents, keeps_uuid=free and is_uuid(version.uuid))
        if known is not None:
            return known
        uuid = version.uuid if free and is_uuid(version.uuid) else None
        if len(parents) > 1:
            return self._target.merge(parents, version.note, uuid)
        if version.branch == f"tag-{version.uuid}":
            return self._target.tag(above.uuid, version.uuid, version.note)
        if version.branch == above.branch:
            return self._target.new_version(above.uuid, version.note, uuid)
        return self._target.branch(above.uuid, version.branch, version.note, uuid)


def _counterpart(
    repo: RepoInfo, version: VersionInfo, parents: Sequence[str], *, keeps_uuid: bool
) -> str | None:
    """Return the version that an earlier run made: by its UUID, else by its place, branch and note."""
    children = [each for each in repo.versions if each.parents == tuple(parents)]
    for each in children:
        if each.uuid == version.uuid:
            return each.uuid
    renamed = not keeps_uuid or len(parents) > 1  # a server gives merges UUIDs of its own
    for each in children:
        if renamed and (each.branch, each.note) == (version.branch, version.note):
            return each.uuid
    return None


def migrate(
    opened: Callable[[], Target],
    place: Place,
    origin: Origin,
    options: CopyOptions,
    config: Mapping[str, str],
    *,
    create: bool,
    versions: bool,
) -> None:
    """Copy instances of a running DVID into a target: as they are at one version, or with all ancestors of it.

    The target is opened once the source has answered: it may be made for it.
    """
    ours = tuple(place.name.split(","))
    if len(ours) != len(origin.names):
        raise InvalidInputError(f"{len(origin.names)} instances cannot become {len(ours)}: name as many")
    with origin.open() as source:
        repo, version = source.find(origin.ref)
        documents = {each.name: each.type_name for each in repo.instances if each.type_name in _DOCUMENTS}
        pairs = tuple(zip(origin.names, ours, strict=True))
        with opened() as target:
            copy = Copy(source, target, pairs, create, config, options, documents)
            if versions:
                History(copy, origin.ref).run(place.ref)
            else:
                _, here = target.find(place.ref)
                copy.version(version.uuid, here.uuid)
