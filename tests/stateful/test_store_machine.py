"""A store under random requests, restarts, crashes and ruined caches shows what plain dictionaries show."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dvidzarr
from dvidzarr.core.errors import NoSpaceError, VersionLockedError
from dvidzarr.core.geometry import Box, ChunkSpan
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.storage import log, postings, writing
from dvidzarr.storage.writing import delete_document, get_document, put_document, write_chunks
from tests.stateful.model import ModelDag, ModelVolume

GRID = (2, 2, 2)
WORLD = Box((-2, -2, -2), (4, 4, 4))
AUTHOR = Author("machine", "test")
KEYS = (b"a", b"ab", b"b", b"\xff\x00")
SIZES = (0, 10, 1025, 3000)
"""Inline in the index, in the log, in a blob (limits made small below)."""

numbers = st.integers(0, 10_000)
corners = st.tuples(*(st.integers(-2, 3) for _ in range(3)))
extents = st.tuples(*(st.integers(1, 5) for _ in range(3)))
coords = st.tuples(*(st.integers(-1, 1) for _ in range(3)))


class StoreMachine(RuleBasedStateMachine):
    """Each rule does the same to the store and to the model; `check` compares all versions."""

    full_write = False

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(log, "SEGMENT_SIZE", 6000)
        self.patch.setattr(postings, "_NEWEST_LIMIT", 6)
        self.patch.setattr(writing, "LOGGED", 2000)
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.base = Path(tempfile.mkdtemp(dir=base, prefix="machine-"))
        self.folders = 0
        self.dag = ModelDag()
        self.alone = ModelDag()
        self.volumes: list[ModelVolume] = []
        self.names = 0
        self.reader: Catalog | None = None

    @initialize(durability=st.sampled_from(("full", "full", "fast")))
    def begin(self, durability: str) -> None:
        overrides = {"storage.rewrite_grace_s": 0, "storage.durability": durability, "compute.threads": 2}
        self.settings = Settings.load(env={}, overrides={**overrides, "storage.flush_interval_s": 0.01})
        self.folder = self.base / "0"
        self.catalog = self.open()
        self.root = self.catalog.create_repo("machine").root
        self.create(versioned=True)
        self.create(versioned=False)

    def teardown(self) -> None:
        try:
            if hasattr(self, "catalog"):
                self.compare(self.repo)
                problems = [f for f in self.catalog.verify(deep=True) if f.severity != "note"]
                assert problems == []
        finally:
            if self.reader is not None:
                self.reader.close()
            if hasattr(self, "catalog"):
                self.catalog.close()
            self.patch.undo()
            shutil.rmtree(self.base)

    def open(self) -> Catalog:
        return dvidzarr.open(self.folder, "w", self.settings, full_write=self.full_write)

    # --- the two worlds --------------------------------------------------------------------------------------

    @property
    def repo(self) -> Repo:
        return self.catalog.repo(self.root)

    def pick(self, number: int, *, locked: bool | None = None) -> int | None:
        """Return a version, newest first for small numbers."""
        wanted = [v for v in range(len(self.dag.parents)) if locked in {None, v in self.dag.locked}]
        return wanted[-1 - number % len(wanted)] if wanted else None

    def target(self, number: int, which: int) -> tuple[ModelVolume, ModelDag, int, VoxelView] | None:
        """Return a volume and a version of it that may be written."""
        volume = self.volumes[which % len(self.volumes)]
        wanted = None if self.full_write else False
        ordinal = self.pick(number, locked=wanted) if volume.versioned else 0
        if ordinal is None:
            return None
        dag = self.dag if volume.versioned else self.alone
        version = self.repo.dag.versions[ordinal]
        return volume, dag, ordinal, self.repo.instance(volume.name).at(version)

    # --- writing ---------------------------------------------------------------------------------------------

    @rule(number=numbers, which=numbers, low=corners, size=extents, seed=numbers)
    def write(
        self, number: int, which: int, low: tuple[int, int, int], size: tuple[int, int, int], seed: int
    ) -> None:
        found = self.target(number, which)
        high = tuple(min(a + n, 4) for a, n in zip(low, size, strict=True))
        if found is None:
            return
        volume, dag, ordinal, view = found
        box = Box(low, high)  # type: ignore[arg-type]
        voxels = np.random.default_rng(seed).integers(0, 4, box.shape, np.uint8)
        view.write(box, voxels, AUTHOR)
        volume.write(dag, ordinal, low, voxels)
        extents = view.extents
        assert extents is not None
        assert extents.union(box) == extents

    @rule(number=numbers, which=numbers, places=st.lists(coords, min_size=1, max_size=5), seed=numbers)
    def write_blocks(self, number: int, which: int, places: list[tuple[int, int, int]], seed: int) -> None:
        found = self.target(number, which)
        if found is None:
            return
        volume, _, ordinal, view = found
        blocks = np.random.default_rng(seed).integers(0, 256, (len(places), *GRID), np.uint8)
        view.write_blocks(np.array(places), blocks, AUTHOR)
        for coord, block in zip(places, blocks, strict=True):
            volume.chunks.put(ordinal, coord, block)

    @rule(number=numbers, which=numbers, places=st.lists(coords, min_size=1, max_size=4, unique=True))
    def delete_chunks(self, number: int, which: int, places: list[tuple[int, int, int]]) -> None:
        found = self.target(number, which)
        if found is None:
            return
        volume, _, ordinal, view = found
        run = self.catalog.scheduler.write
        with view.writing() as dataset:
            write_chunks(
                dataset, view.chunks, ordinal, places, lambda _: None, author=AUTHOR, header={}, run_all=run
            )
        for coord in places:
            volume.chunks.put(ordinal, coord, None)

    @rule(
        number=numbers,
        which=numbers,
        key=st.sampled_from(KEYS),
        size=st.sampled_from(SIZES),
        seed=st.integers(0, 255),
    )
    def put(self, number: int, which: int, key: bytes, size: int, seed: int) -> None:
        found = self.target(number, which)
        if found is None:
            return
        volume, _, ordinal, view = found
        value = bytes([seed]) * size
        with view.writing() as dataset:
            put_document(dataset, ordinal, key, value, AUTHOR, {})
        volume.documents.put(ordinal, key, value)

    @rule(number=numbers, which=numbers, key=st.sampled_from(KEYS))
    def delete(self, number: int, which: int, key: bytes) -> None:
        found = self.target(number, which)
        if found is None:
            return
        volume, _, ordinal, view = found
        with view.writing() as dataset:
            delete_document(dataset, ordinal, key, AUTHOR, {})
        volume.documents.put(ordinal, key, None)

    @rule(number=numbers, which=numbers, low=corners, failing=st.integers(0, 4))
    def fail_to_write(self, number: int, which: int, low: tuple[int, int, int], failing: int) -> None:
        """Write while the disk is full at one of the objects, or at the log: nothing changes."""
        found = self.target(number, which)
        if found is None:
            return
        box = Box(low, tuple(a + 3 for a in low))  # type: ignore[arg-type]
        with full_disk(self.catalog, failing), pytest.raises(NoSpaceError):
            found[3].write(box, np.full(box.shape, 9, np.uint8), AUTHOR)

    @rule(number=numbers)
    def write_locked(self, number: int) -> None:
        ordinal = self.pick(number, locked=True)
        volume = next((volume for volume in self.volumes if volume.versioned), None)
        if ordinal is not None and volume is not None and not self.full_write:
            view = self.repo.instance(volume.name).at(self.repo.dag.versions[ordinal])
            with pytest.raises(VersionLockedError):
                view.write(Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), np.uint8), AUTHOR)

    # --- versions and instances ------------------------------------------------------------------------------

    @rule(number=numbers)
    def commit(self, number: int) -> None:
        ordinal = self.pick(number, locked=False)
        if ordinal is not None:
            self.repo.commit(self.repo.dag.versions[ordinal])
            self.dag.locked.add(ordinal)

    @rule(number=numbers, same=st.booleans())
    def add_version(self, number: int, same: bool) -> None:
        parent = self.pick(number, locked=True)
        if parent is None or len(self.dag.parents) > 14:
            return
        ordinal = len(self.dag.parents)
        branch = self.dag.branches[parent]
        taken = any(
            parent in p and self.dag.branches[v] == branch for v, p in enumerate(self.dag.parents) if p
        )
        above = self.repo.dag.versions[parent]
        if same and not taken:
            made = self.repo.new_version(above)
        else:
            branch = f"branch-{ordinal}"
            made = self.repo.branch(above, branch)
        assert made.ordinal == ordinal
        self.dag.branches[ordinal] = branch
        self.dag.parents.append((parent,))

    @precondition(lambda self: len(self.dag.locked) > 1)
    @rule(order=st.randoms(use_true_random=False), count=st.integers(2, 3))
    def merge(self, order: random.Random, count: int) -> None:
        if len(self.dag.parents) > 14:
            return
        parents = order.sample(sorted(self.dag.locked), min(count, len(self.dag.locked)))
        made = self.repo.merge([self.repo.dag.versions[p] for p in parents])
        assert made.ordinal == len(self.dag.parents)
        self.dag.branches[made.ordinal] = ""
        self.dag.parents.append(tuple(parents))

    @rule(versioned=st.booleans())
    @precondition(lambda self: len(self.volumes) < 3)
    def create(self, versioned: bool) -> None:
        at = next((v for v in range(len(self.dag.parents)) if v not in self.dag.locked), None)
        if at is None:
            return
        self.names += 1
        config = {"BlockSize": ",".join(map(str, GRID)), **({} if versioned else {"versioned": "false"})}
        name = f"volume-{self.names}"
        self.repo.create_instance("uint8blk", name, config, self.repo.dag.versions[at])
        self.volumes.append(ModelVolume(name, GRID, versioned))

    @rule(which=numbers)
    def rename(self, which: int) -> None:
        volume = self.volumes[which % len(self.volumes)]
        self.names += 1
        self.repo.rename_instance(volume.name, f"volume-{self.names}")
        volume.name = f"volume-{self.names}"

    @precondition(lambda self: len(self.volumes) > 2)
    @rule(which=numbers)
    def delete_instance(self, which: int) -> None:
        volume = self.volumes.pop(which % len(self.volumes))
        self.repo.delete_instance(volume.name)

    @rule(seed=numbers, lock=st.booleans())
    def work(self, seed: int, lock: bool) -> None:
        """Let somebody work on the newest version for a while, who writes the same chunks again and again."""
        chance = random.Random(seed)
        for _ in range(chance.randint(2, 6)):
            low, size = ([chance.randint(*ends) for _ in range(3)] for ends in ((-2, 1), (1, 4)))
            self.write(0, chance.randint(0, 2), tuple(low), tuple(size), chance.randint(0, 99))  # type: ignore[arg-type]
            if chance.random() < 0.3:
                places = [tuple(chance.randint(-1, 1) for _ in range(3))]
                self.delete_chunks(0, chance.randint(0, 2), places)  # type: ignore[arg-type]
            if chance.random() < 0.5:
                self.put(0, chance.randint(0, 2), chance.choice(KEYS), chance.choice(SIZES), seed % 256)
        if lock:
            self.commit(0)
            self.add_version(0, same=True)

    # --- what happens to processes and files -----------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        assert self.catalog.context.housekeeper.settle(120)

    @rule(ruin=st.sampled_from((None, None, "drop", "truncate", "flip", "swap")), seed=numbers)
    def restart(self, ruin: str | None, seed: int) -> None:
        self.catalog.close()
        ruin_caches(self.folder, ruin, random.Random(seed))
        self.catalog = self.open()

    @rule(ruin=st.sampled_from((None, None, "drop", "truncate", "flip", "swap")), seed=numbers)
    def crash(self, ruin: str | None, seed: int) -> None:
        """Go on with the files as they are now: the old process never closed its store."""
        self.leave_reader()
        self.folders += 1
        old, self.folder = self.folder, self.base / str(self.folders)
        with self.catalog.context.housekeeper.paused():  # the copy is one moment, as a crash is
            shutil.copytree(old, self.folder)
        self.catalog.close()
        shutil.rmtree(old)
        ruin_caches(self.folder, ruin, random.Random(seed))
        self.catalog = self.open()

    @rule()
    def save_caches(self) -> None:
        for instance in self.repo.instances.values():
            instance.dataset.save_caches()

    @rule()
    def leave_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    @rule()
    def follow(self) -> None:
        if self.reader is None:
            self.reader = dvidzarr.open(self.folder, "r", self.settings)
        self.compare(self.reader.repo(self.root))

    # --- comparing -------------------------------------------------------------------------------------------

    @rule()
    def check(self) -> None:
        self.compare(self.repo)

    @invariant()
    def newest_is_right(self) -> None:
        if hasattr(self, "catalog") and self.volumes:
            self.compare_version(self.repo, self.volumes[0], len(self.dag.parents) - 1)

    def compare(self, repo: Repo) -> None:
        assert [v.parents for v in repo.dag] == self.dag.parents
        assert {v.ordinal for v in repo.dag if v.locked} == self.dag.locked
        assert set(repo.instances) == {volume.name for volume in self.volumes}
        for volume in self.volumes:
            for ordinal in range(len(self.dag.parents)):
                self.compare_version(repo, volume, ordinal)

    def compare_version(self, repo: Repo, volume: ModelVolume, version: int) -> None:
        dag, ordinal = (self.dag, version) if volume.versioned else (self.alone, 0)
        view = repo.instance(volume.name).at(repo.dag.versions[version])
        want = volume.read(dag, ordinal, WORLD.start, WORLD.stop)
        np.testing.assert_array_equal(view.read(WORLD), want)
        for coord, block in view.blocks(ChunkSpan((-1, -1, -1), (2, 2, 2))):
            expected = volume.chunks.value(dag, ordinal, coord)
            assert (block is None) == (expected is None), (ordinal, coord)
            assert block is None or np.array_equal(block, expected)
        lineage, dataset = view.lineage(), view.instance.dataset
        for key in KEYS:
            assert get_document(dataset, key, lineage) == volume.documents.value(dag, ordinal, key), (
                ordinal,
                key,
            )
        listed = [key for key, _ in dataset.documents.range(lineage)]
        assert listed == sorted(k for k in KEYS if volume.documents.value(dag, ordinal, k) is not None)


@contextmanager
def full_disk(catalog: Catalog, after: int) -> Iterator[None]:
    """Let the disk be full once so many objects were created, and for every record of a log."""
    backend, left = catalog.context.backend, [after]
    create = type(backend).create

    def failing(key: str, data: bytes | memoryview, *, sync: bool, soon: bool = False) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise NoSpaceError(f"{key}: no space left on the device")
        return create(backend, key, data, sync=sync, soon=soon)

    def refuse(*_: object) -> None:
        raise NoSpaceError("log: no space left on the device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "create", failing)
        patch.setattr("dvidzarr.storage.openfiles.AppendFile.write_at", refuse)
        yield


def ruin_caches(folder: Path, how: str | None, chance: random.Random) -> None:
    """Damage what may be damaged without loss: the caches."""
    files = sorted(path for path in (folder / "cache").rglob("*") if path.is_file())
    if how is None or not files:
        return
    path = chance.choice(files)
    if how == "drop":
        path.unlink()
    elif how == "truncate":
        os.truncate(path, chance.randint(0, path.stat().st_size))
    elif how == "flip":
        data = bytearray(path.read_bytes())
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
    else:
        other = chance.choice(files)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)


StoreMachine.TestCase.settings = settings(
    settings(),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestStore = StoreMachine.TestCase
