"""The overlays of a repo's locked versions: they are put under their Zarr keys in the background. Design: storage §5."""

import logging
from typing import TYPE_CHECKING

from dvidzarr.core.errors import BusyError, StorageError
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import flush
from dvidzarr.storage.finishing import finish

if TYPE_CHECKING:
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo

_logger = logging.getLogger("dvidzarr.repo")

_AMENDED_S = 2.0
"""So long after a write to a locked version its overlay is finished again: many such writes share that."""
_ALONE_S = 0.1
"""So long finishing waits for those that write: other tasks wait behind it, and other writers too."""


class Overlays:
    """Finishes the overlays of one repo."""

    def __init__(self, repo: "Repo") -> None:
        self._repo = repo

    def finish_later(self, instance: "Instance", delay: float = 0) -> None:
        """Put the overlays of locked versions under their Zarr keys, in the background."""
        name = ("finish", instance.id, delay)
        self._repo.context.housekeeper.schedule(delay, name, lambda: self._finish(instance))

    def finish_amended_later(self, instance: "Instance") -> None:
        """Do so for versions that are being written although they are locked."""
        self.finish_later(instance, _AMENDED_S)

    def _finish(self, instance: "Instance") -> None:
        if not instance.opened:
            return
        try:
            self._finish_all(instance)
        except StorageError:
            if not self._is_deleted(instance):
                raise

    def _is_deleted(self, instance: "Instance") -> bool:
        return self._repo.state.record_of(instance.id) is None

    def _finish_all(self, instance: "Instance") -> None:
        dataset = instance.dataset
        for ordinal in self._unfinished(dataset, instance):
            try:
                if self._repo.catalog.full_write or ordinal in self._repo.state.amended:
                    self._finish_alone(dataset, ordinal)
                else:
                    finish(dataset, ordinal)
            except BusyError:  # somebody writes
                self.finish_amended_later(instance)
                return
            except StorageError as error:  # of one version: the others are finished all the same
                if self._is_deleted(instance):
                    return
                version = self._repo.dag.versions[ordinal].uuid
                _logger.error("%s, version %s is not finished: %s", instance.prefix, version, error)  # noqa: TRY400
        instance.finished()

    def _finish_alone(self, dataset: Dataset, ordinal: int) -> None:
        """Finish a version that may be written although it is locked."""
        name = f"version {self._repo.dag.versions[ordinal].uuid}"
        with self._repo.gates.exclusive(("version", ordinal), _ALONE_S, name):
            flush(dataset)  # a Zarr key is replaced only by what a power loss cannot take back
            finish(dataset, ordinal)

    def _unfinished(self, dataset: Dataset, instance: "Instance") -> list[int]:
        if not instance.versioned:  # never locked: its one state has nothing to do with the root's
            return []
        if not self._repo.state.seals.get(instance.id) and not self._repo.state.amended:
            return []
        return sorted(
            ordinal for ordinal in tuple(dataset.unfinished) if self._repo.dag.versions[ordinal].locked
        )
