"""A process that writes numbered requests until it is killed, and a journal of what it was told: run as a script."""

import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np

import dvidzarr
from dvidzarr.core.errors import DvidzarrError, VersionLockedError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.storage import dataset, log
from dvidzarr.storage.writing import put_document

REGIONS = (
    (Box((0, 0, 0), (16, 16, 16)), 0),
    (Box((0, 0, 32), (16, 16, 48)), 1),
    (Box((35, 3, 3), (48, 14, 14)), 0),  # chunks covered in part
    (Box((67, 0, 0), (76, 8, 8)), 0),  # these two meet in the middle of a chunk
    (Box((76, 0, 0), (85, 8, 8)), 1),
)
"""Box, and the thread that writes it."""
KEYS = (b"small", b"logged", b"blob")
SIZES = (10, 2000, 70_000)
INSTANCE = "numbers"
AUTHOR = Author("stamps", "test")


def voxels_of(box: Box, number: int) -> np.ndarray:
    """Return the voxels of a box that say a number, again and again."""
    text = struct.pack("<I", number) * (box.volume // 4 + 1)
    return np.frombuffer(text, np.uint8, box.volume).reshape(box.shape)


def number_of(voxels: np.ndarray) -> int:
    """Return the number that voxels say; raise if they say several."""
    raw = voxels.tobytes()
    (number,) = struct.unpack_from("<I", raw)
    if raw != struct.pack("<I", number) * (len(raw) // 4) + struct.pack("<I", number)[: len(raw) % 4]:
        raise AssertionError(
            f"a mixture of requests: {sorted(set(struct.unpack_from(f'<{len(raw) // 4}I', raw)))}"
        )
    return int(number)


def value_of(key: bytes, number: int) -> bytes:
    """Return the document that says a number."""
    return b"%d " % number * (SIZES[KEYS.index(key)] // len(b"%d " % number) + 1)


def settings_for(durability: str) -> Settings:
    """Return settings under which rewrites go at once and flushes come often."""
    overrides = {
        "storage.durability": durability,
        "storage.rewrite_grace_s": 0.05,
        "storage.flush_interval_s": 0.05,
    }
    return Settings.load(env={}, overrides={**overrides, "compute.threads": 2})


def make_files_small() -> None:
    """Let segments and caches change all the time."""
    log.SEGMENT_SIZE = 40_000
    dataset._CACHE_EVERY = 50_000


class Writer:
    """The threads of the process. `journal` gets a line before a request is sent and one after its answer."""

    def __init__(self, catalog: Catalog, repo: Repo, journal: Path, seed: int) -> None:
        self.catalog = catalog
        self.repo = repo
        self.instance = repo.instance(INSTANCE)
        self.chance = random.Random(seed)
        self.start = seed * 100_000
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, *words: object) -> None:
        """Append one line with one write."""
        os.write(self.journal, (" ".join(map(str, words)) + "\n").encode())

    def regions(self, thread: int) -> None:
        """Write the regions of a thread in turn."""
        mine = [number for number, (_, owner) in enumerate(REGIONS) if owner == thread]
        for number in range(self.start, self.start + 100_000):
            region = mine[number % len(mine)]
            box = REGIONS[region][0]
            version = self.repo.dag.head("")
            self.note("sent", version.uuid, region, number)
            try:
                self.instance.at(version).write(box, voxels_of(box, number), AUTHOR)
            except VersionLockedError:
                continue
            self.note("done", version.uuid, region, number)

    def documents(self) -> None:
        """Write the documents in turn."""
        for number in range(self.start, self.start + 100_000):
            key = KEYS[number % len(KEYS)]
            version = self.repo.dag.head("")
            view = self.instance.at(version)
            self.note("sent", version.uuid, key.decode(), number)
            try:
                with view.writing() as target:
                    put_document(target, view.ordinal, key, value_of(key, number), AUTHOR, {})
            except VersionLockedError:
                continue
            self.note("done", version.uuid, key.decode(), number)
            time.sleep(0.001)

    def versions(self) -> None:
        """Lock the head and go on in a child, again and again; now and then a branch and a merge beside it."""
        while True:
            time.sleep(self.chance.uniform(0.02, 0.1))
            locked = self.repo.commit(self.repo.dag.head(""))
            self.note("locked", locked.uuid)
            if self.chance.random() < 0.3:
                side = self.repo.commit(self.repo.branch(locked, f"side-{locked.ordinal}"))
                self.note("locked", side.uuid)
                child = self.repo.merge([locked, side])
            else:
                child = self.repo.new_version(locked)
            self.note("made", child.uuid)

    def instances(self) -> None:
        """Create an instance, write to it, rename it, and delete the one before, again and again."""
        names = sorted(set(self.repo.instances) - {INSTANCE})
        for name in names:  # the kill may have come before a line about it
            self.note("created", self.repo.instance(name).id, name)
        for number in range(self.start, self.start + 100_000):
            time.sleep(self.chance.uniform(0.01, 0.05))
            name, box = f"n{number}", Box((0, 0, 0), (8, 8, 8))
            config = {"BlockSize": "8,8,8", "versioned": "false"}
            try:
                view = self.repo.create_instance("uint8blk", name, config).at()
            except VersionLockedError:
                continue
            self.note("created", view.instance.id, name)
            view.write(box, voxels_of(box, number), AUTHOR)
            self.note("written", view.instance.id, number)
            self.note("renaming", view.instance.id, name, f"r{number}")
            self.repo.rename_instance(name, f"r{number}")
            self.note("renamed", view.instance.id, f"r{number}")
            names.append(f"r{number}")
            while len(names) > 2:
                gone = self.repo.instance(names.pop(0))
                self.note("deleting", gone.id)
                self.repo.delete_instance(gone.name)
                self.note("deleted", gone.id)

    def run(self) -> None:
        """Start the threads and wait to be killed."""
        tasks = [
            lambda: self.regions(0),
            lambda: self.regions(1),
            self.documents,
            self.versions,
            self.instances,
        ]
        for task in tasks:
            threading.Thread(target=self._loudly, args=(task,), daemon=True).start()
        while True:
            time.sleep(1)

    def _loudly(self, task: object) -> None:
        try:
            task()  # type: ignore[operator]
        except (DvidzarrError, AssertionError) as error:
            self.note("failed", type(error).__name__, str(error).replace("\n", " "))
            os._exit(1)


def main() -> None:
    """Write to the store, from an open head on."""
    folder, durability, journal, seed = sys.argv[1:]
    make_files_small()
    catalog = dvidzarr.open(folder, "w", settings_for(durability))
    repo = catalog.repos[0]
    if repo.dag.head("").locked:
        repo.new_version(repo.dag.head(""))
    Writer(catalog, repo, Path(journal), int(seed)).run()


if __name__ == "__main__":
    main()
