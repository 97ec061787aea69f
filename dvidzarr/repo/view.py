"""A data instance at one version. Datatypes subclass it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from dvidzarr.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from dvidzarr.core.geometry import Box
from dvidzarr.core.lineage import Lineage
from dvidzarr.repo.dag import Version
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.intact import check_intact

if TYPE_CHECKING:
    import numpy as np

    from dvidzarr.repo.instance import Instance


class BlockMask(Protocol):
    """A set of blocks that restricts what is read or written."""

    def contains(self, blocks: "np.ndarray") -> "np.ndarray":
        """Tell of blocks (n, 3), z, y, x, whether they are inside."""
        ...


class View:
    """An instance at a version: what library users, handlers and dask hold. Pickles read-only.

    `overrule` is whether its holder may write locked versions, in a store opened with `full_write`.
    """

    overrule: bool = True

    def __init__(self, instance: "Instance", version: Version) -> None:
        self.instance = instance
        self.version = version

    @property
    def ordinal(self) -> int:
        """The version's ordinal in the instance's own order (0 for unversioned data)."""
        return self.version.ordinal if self.instance.versioned else 0

    def lineage(self) -> Lineage:
        """Return the lineage, after reading on in the logs if another process writes."""
        instance = self.instance
        dataset = instance.dataset
        if not dataset.writable:
            instance.repo.follow()
            instance.repo.check_instance(instance)
            dataset.follow()  # after the repo: a version seen locked is seen with all that was written to it
        lineage = dataset.versions.lineage(self.ordinal)
        if dataset.log.damage:
            check_intact(dataset, lineage, self._seal_of)
        return lineage

    def _seal_of(self, ordinal: int) -> int | None:
        if not self.instance.versioned:
            return None
        return self.instance.repo.state.sealed_sequence(ordinal, self.instance.id)

    @contextmanager
    def writing(self) -> Iterator[Dataset]:
        """Pass the gates of the instance and the version; raise if the version is locked."""
        with self.instance.repo.writing(self.instance, self.version, overrule=self.overrule):
            dataset = self.instance.dataset
            dataset.log.check_writable()
            yield dataset

    def block_mask(self, box: Box) -> BlockMask:
        """Return which blocks count when a box of an image is asked for within this region. For regions of interest."""
        raise InvalidInputError(f'Data name "{self.instance.name}" was not of roi data type')

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        repo = self.instance.repo
        opener = repo.catalog.opener
        if opener is None:
            raise ForbiddenError("this view cannot be pickled: its store was opened without an opener")
        return _reopen, (opener, repo.url, repo.root, self.instance.id, self.version.id)

    def __repr__(self) -> str:
        return f"<{self.instance.datatype.name} {self.instance.name!r} at version {self.version.uuid}>"


def _reopen(opener: Callable[[str], Any], url: str, root: str, instance_id: str, version_id: str) -> View:
    """Open a view in another process, for reading only."""
    repo = opener(url).repo(root)
    for instance in repo.instances.values():
        if instance.id == instance_id:
            view: View = instance.at(repo.dag.versions[repo.dag.by_id[version_id]])
            return view
    raise NotFoundError(f"the data instance {instance_id} no longer exists in repo {root}")
