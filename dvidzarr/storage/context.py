"""What a dataset is given: what everything in one store shares, and what its datatype keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol, Self

from dvidzarr.core.settings import Settings
from dvidzarr.storage.backend import RunAll
from dvidzarr.storage.cache import ChunkCache
from dvidzarr.storage.frames import Entry
from dvidzarr.storage.housekeeper import Housekeeper
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.packs import OpenPacks


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What everything in one store shares."""

    backend: LocalBackend
    store_id: str
    settings: Settings
    cache_dir: Path
    chunk_cache: ChunkCache
    housekeeper: Housekeeper
    run_all: RunAll
    open_packs: OpenPacks = field(default_factory=OpenPacks)

    def trash(self, prefix: str, data_ids: Sequence[str]) -> None:
        """Move the folder of something deleted into the trash, and remove the caches of its instances.

        A background task that runs meanwhile may write a file of it, and so make its folder anew: that one follows.
        """
        self.trash_now(prefix, data_ids)
        self.housekeeper.schedule(0, ("trash", prefix), lambda: self.trash_now(prefix, data_ids))

    def trash_now(self, prefix: str, data_ids: Sequence[str]) -> None:
        """Do so where no background task can know of it."""
        self.backend.trash(prefix)
        for data_id in data_ids:
            rmtree(self.cache_dir / data_id, ignore_errors=True)


class Model(Protocol):
    """What a datatype keeps besides chunks and documents. `snapshot` is JSON that `restore` takes back."""

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state."""
        ...

    def blank(self) -> Self:
        """Return another one as created, to take in the records anew."""
        ...
