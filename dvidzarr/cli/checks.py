"""What commands ask a store before they change it: DVID's own messages name neither the version nor the instance."""

from collections.abc import Sequence

from dvidzarr.cli.target import Target
from dvidzarr.core.errors import ConflictError, NotFoundError


def check_locked(target: Target, refs: Sequence[str]) -> None:
    """Raise if a version that is to get children is open."""
    for ref in refs:
        _, version = target.find(ref)
        if not version.locked:
            raise ConflictError(
                f"{ref} (version {version.uuid}) is open, and only locked versions have children: commit it"
            )


def check_instances(target: Target, ref: str, names: Sequence[str]) -> None:
    """Raise if the repo of a version lacks an instance."""
    for name in names:
        if not target.has_instance(ref, name):
            raise NotFoundError(f"the repo of {ref} has no instance {name!r}")
