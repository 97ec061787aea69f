"""What commands ask a store before they change it: DVID's own messages name neither the version nor the instance."""

from collections.abc import Iterable, Sequence

from dvidzarr.cli.target import Target, VolumeInfo
from dvidzarr.core.errors import ConflictError, InvalidInputError, NotFoundError, VersionLockedError


def check_locked(target: Target, refs: Sequence[str]) -> None:
    """Raise if a version that is to get children is open."""
    for ref in refs:
        _, version = target.find(ref)
        if not version.locked:
            raise ConflictError(
                f"{ref} (version {version.uuid}) is open, and only locked versions have children: commit it"
            )


def check_open(target: Target, info: VolumeInfo) -> None:
    """Raise if a version takes no more voxels."""
    if info.locked:
        raise VersionLockedError(
            f"version {info.version} is locked: make a child "
            f"(`dvidzarr newversion {target.where} {info.version}`) and ingest into that"
        )


def check_instances(target: Target, ref: str, names: Sequence[str]) -> None:
    """Raise if the repo of a version lacks an instance."""
    for name in names:
        if not target.has_instance(ref, name):
            raise NotFoundError(f"the repo of {ref} has no instance {name!r}")


def check_settings(type_name: str, names: Iterable[str]) -> None:
    """Raise if a type does not know a setting: DVID passes over it in silence, and so do servers for its clients.

    Types that are not ours, of a DVID, may know any.
    """
    from dvidzarr.datatypes import BUILTIN  # noqa: PLC0415 - loads numpy, not needed for help
    from dvidzarr.repo.config import COMMON_SETTINGS  # noqa: PLC0415

    if type_name not in BUILTIN:
        return
    known = (*BUILTIN[type_name].settings, *COMMON_SETTINGS)
    lowered = {name.lower() for name in known}
    for name in names:
        if name.lower() not in lowered:
            raise InvalidInputError(f"{type_name} knows no setting {name!r}, but {', '.join(known)}")
