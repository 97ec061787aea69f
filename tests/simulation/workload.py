"""A seeded workload on a simulated disk."""

import errno
import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dvidzarr.core.errors import NoSpaceError
from dvidzarr.core.ids import Author
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.dag import Version
from dvidzarr.repo.view import View
from dvidzarr.storage.writing import put_document, write_documents
from tests.simulation.engine import abandon, open_store, settings_for
from tests.simulation.simdisk import Disk
from tests.simulation.simos import Fault, SimOs, mounted
from tests.simulation.worlds import KEYS, REGIONS, World, observe

AUTHOR = Author("simulation", "test")
SIZES = (10, 200, 70)
LATE = "refused after all was written"
"""Until it is answered, such a request may show or not."""


@dataclass(frozen=True, slots=True)
class Ack:
    """After `done` operations of the disk the store showed `world`; what world number `safe` held was durable."""

    done: int
    world: World
    safe: int
    what: str


class Workload:
    """Requests one after the other. `acks` says what the store showed after each."""

    def __init__(self, seed: int, durability: str, cache_dir: str) -> None:
        self.chance = random.Random(seed)
        self.settings = settings_for(durability, cache_dir)
        self.system = SimOs(Disk())
        self.acks: list[Ack] = []
        self._number = 0
        self._safe = 0
        self.full_write = seed % 3 == 2  # then locked versions are written, too
        without = {"document", "batch"} if seed % 2 else set()  # without documents everything is faster
        self._names = [name for name in _WEIGHTS if name not in without]
        self._weights = [_WEIGHTS[name] for name in self._names]

    def run(self, requests: int) -> "Workload":
        """Make a store and do so many random things."""
        with mounted(self.system):
            self.catalog = self._open()
            self.repo = self.catalog.create_repo("first", author=AUTHOR)
            self._acknowledged("create")
            self.repo.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"}, author=AUTHOR)
            self._acknowledged("instance")
            for _ in range(requests):
                self._step()
            abandon(self.catalog)
        return self

    def _open(self) -> Catalog:
        return open_store(self.settings, full_write=self.full_write)

    def _step(self) -> None:
        name = self.chance.choices(self._names, self._weights)[0]
        done = getattr(self, f"_do_{name}")()
        if done is not False:
            self._acknowledged(done or name)

    def _acknowledged(self, what: str) -> None:
        """Note what is shown now, and from when on it is safe."""
        self.system.note_words()
        durable = self.settings.storage.durability == "full" or what in _FLUSHING
        self._safe = len(self.acks) if durable else self._safe
        self.acks.append(Ack(len(self.system.trace), observe(self.catalog), self._safe, what))

    # --- requests: False = nothing was done, a text = what was done --------------------------------------------

    def _view(self) -> View | None:
        versions = [version for version in self.repo.dag if self.full_write or not version.locked]
        instances = sorted(self.repo.instances.values(), key=lambda each: each.name)
        if not versions or not instances:
            return None
        return self.chance.choice(instances).at(self.chance.choice(versions))

    def _do_voxels(self) -> bool | None:
        view = self._view()
        if view is None:
            return False
        box = self.chance.choice(REGIONS)
        self._number += 1
        view.write(box, np.full(box.shape, self._number % 251 + 1, np.uint8), AUTHOR)  # type: ignore[attr-defined]
        return None

    def _do_document(self) -> bool | None:
        return self._documents(self.chance.randrange(3))

    def _documents(self, index: int) -> bool | None:
        view = self._view()
        if view is None:
            return False
        self._number += 1
        value = b"%d " % self._number * (SIZES[index] // 4)
        with view.writing() as target:
            put_document(target, view.ordinal, KEYS[index], value, AUTHOR, {})
        return None

    def _do_batch(self) -> bool | None:
        view = self._view()
        if view is None:
            return False
        self._number += 1
        values = [b"%d " % self._number * (size // 4) for size in SIZES]
        words: list[Any] = list(zip(KEYS, [None, *values[1:]] if self._number % 2 else values, strict=True))
        with view.writing() as target:
            write_documents(target, view.ordinal, words, AUTHOR, {})
        return None

    def _versions(self, *, locked: bool) -> list[Version]:
        return [version for version in self.repo.dag if version.locked == locked]

    def _do_commit(self) -> bool | None:
        if not (versions := self._versions(locked=False)):
            return False
        self.repo.commit(self.chance.choice(versions), "locked", author=AUTHOR)
        return None

    def _do_child(self) -> bool | None:
        if len(self.repo.dag) > 4 or not (versions := self._versions(locked=True)):
            return False
        parent = self.chance.choice(versions)
        self._number += 1
        self.repo.branch(parent, f"b{self._number}", author=AUTHOR)
        return None

    def _do_note(self) -> bool | None:
        if not (versions := self._versions(locked=False)):
            return False
        self._number += 1
        self.repo.set_note(self.chance.choice(versions), f"note {self._number}", AUTHOR)
        return None

    def _do_housekeeping(self) -> None:
        self.catalog.context.housekeeper.run()  # type: ignore[attr-defined]

    def _do_instance(self) -> bool | None:
        if len(self.repo.instances) > 1 or not self._versions(locked=False):
            return False
        self._number += 1
        version = self._versions(locked=False)[0]
        settings = {"BlockSize": "8,8,8", "versioned": "0" if self._number % 2 else "1"}
        self.repo.create_instance("uint8blk", f"gray{self._number}", settings, version, AUTHOR)
        return None

    def _do_rename(self) -> bool | None:
        if not self.repo.instances:
            return False
        self._number += 1
        self.repo.rename_instance(sorted(self.repo.instances)[0], f"gray{self._number}", AUTHOR)
        return None

    def _do_removal(self) -> bool | None:
        if len(self.repo.instances) < 2:
            return False
        self.repo.delete_instance(sorted(self.repo.instances)[1], AUTHOR)
        return None

    def _do_repo(self) -> bool | None:
        others = [repo for repo in self.catalog.repos if repo.root != self.repo.root]
        if others:
            self.catalog.delete_repo(others[0].root, author=AUTHOR)
        else:
            self.catalog.create_repo("second", author=AUTHOR)
        return None

    def _do_restart(self) -> None:
        self.catalog.close()
        self._reopen()

    def _do_kill(self) -> None:
        abandon(self.catalog)
        self._reopen()

    def _reopen(self) -> None:
        root = self.repo.root
        self.catalog = self._open()
        assert not self.catalog.broken, self.catalog.broken
        self.repo = self.catalog.repo(root)

    def _do_full_disk(self) -> str | None:
        """Fill the disk for one request: it is refused, and nothing changes."""
        kind = self.chance.choice(("write", "write", "create"))
        share = self.chance.choice((0.0, 0.5, 1.0))
        self.system.faults.append(Fault(kind, self.chance.randrange(1, 5), errno.ENOSPC, share))
        with_documents = (self._do_voxels, self._do_document, partial(self._documents, 1))
        request = self.chance.choice(with_documents if "document" in self._names else with_documents[:1])
        try:
            request()
        except NoSpaceError:
            return LATE if share == 1 else None
        finally:
            self.system.faults.clear()
        return None


_WEIGHTS = {
    "voxels": 12,
    "document": 5,
    "batch": 3,
    "commit": 3,
    "child": 4,
    "note": 1,
    "housekeeping": 4,
    "instance": 2,
    "rename": 1,
    "removal": 1,
    "repo": 1,
    "restart": 1,
    "kill": 1,
    "full_disk": 3,
}
_FLUSHING = {"commit", "restart", "create"}
