"""What a dataset is given: what everything in one store shares, and what its datatype keeps."""

from dataclasses import dataclass, field
from pathlib import Path
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

    def trash(self, prefix: str) -> None:
        """Move what was deleted into the trash.

        A background task that runs meanwhile may write a file of it, and so make its folder anew: that one follows.
        """
        self.backend.trash(prefix)
        self.housekeeper.schedule(0, ("trash", prefix), lambda: self.backend.trash(prefix))


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
