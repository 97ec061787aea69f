"""Threads of one process that do at the same time what must not mix."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import BusyError, DvidzarrError, NotFoundError, StorageError, VersionLockedError
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage import log
from dvidzarr.storage.local import LocalBackend
from tests.integration.gray_store import BOX, write


def settings_for(durability: str = "full") -> Settings:
    overrides = {
        "storage.rewrite_grace_s": 0,
        "storage.durability": durability,
        "storage.flush_interval_s": 0.01,
    }
    return Settings.load(env={}, overrides=overrides)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store", "w", settings_for()) as opened:
        opened.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        yield opened


def at_once(*tasks: Callable[[], object]) -> list[BaseException]:
    """Run tasks in threads that start together; return what they raised."""
    barrier, raised = threading.Barrier(len(tasks)), []

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        try:
            task()
        except Exception as error:  # noqa: BLE001 - judged by the caller
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_disjoint_writes_into_one_chunk_both_survive(catalog: Catalog) -> None:
    view = catalog.repos[0].instance("gray").at()
    low, high = Box((0, 0, 0), (2, 4, 4)), Box((2, 0, 0), (4, 4, 4))
    for number in range(1, 101):
        raised = at_once(lambda n=number: write(view, n, low), lambda n=number: write(view, n + 100, high))  # type: ignore[misc]
        assert raised == []
        assert (view.read(low) == number).all()
        assert (view.read(high) == number + 100).all()


def test_requests_never_mix(catalog: Catalog) -> None:
    """Two writers of the same eight chunks, and readers that see one or the other."""
    view, done = catalog.repos[0].instance("gray").at(), threading.Event()

    def read() -> None:
        while not done.is_set():
            values = np.unique(view.read(BOX))
            assert len(values) == 1, values

    def write_many(start: int) -> None:
        try:
            for number in range(start, start + 100):
                write(view, number)
        finally:
            done.set()

    assert at_once(lambda: write_many(0), lambda: write_many(100), read, read) == []


def test_a_commit_and_writers(catalog: Catalog) -> None:
    """What was acknowledged is in the locked version; its bytes never change afterwards."""
    repo = catalog.repos[0]
    for _ in range(25):
        version = repo.dag.head("")
        view = repo.instance("gray").at(version)
        acknowledged, seen = [0, 0], []

        def write_many(thread: int, view: VoxelView = view, acknowledged: list[int] = acknowledged) -> None:
            box = Box((4 * thread, 0, 0), (4 * thread + 4, 8, 8))
            try:
                for number in range(1, 200):
                    write(view, number, box)
                    acknowledged[thread] = number
            except VersionLockedError:
                return

        def commit(seen: list[bytes] = seen, view: VoxelView = view) -> None:
            time.sleep(0.005)
            repo.commit(view.version)
            seen.append(view.read(BOX).tobytes())

        assert at_once(lambda: write_many(0), lambda: write_many(1), commit) == []
        after = view.read(BOX)
        assert after.tobytes() == seen[0]
        assert [after[0, 0, 0], after[4, 0, 0]] == acknowledged or 0 in acknowledged
        child = repo.new_version(version)
        write(repo.instance("gray").at(child), 255)
        assert view.read(BOX).tobytes() == seen[0]
    assert catalog.context.housekeeper.settle(120)
    assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_deleting_an_instance_while_it_is_written(catalog: Catalog) -> None:
    repo = catalog.repos[0]
    for number in range(15):
        name = f"volume-{number}"
        instance = repo.create_instance("uint8blk", name, {"BlockSize": "4,4,4"})
        view = instance.at()

        def write_many(view: VoxelView = view) -> None:
            for value in range(1000):
                write(view, value % 256)

        def read_many(view: VoxelView = view) -> None:
            while True:
                view.read(BOX)

        raised = at_once(write_many, write_many, read_many, lambda name=name: repo.delete_instance(name))  # type: ignore[misc]
        assert len(raised) == 3
        assert all(isinstance(error, (NotFoundError, StorageError)) for error in raised), raised
        assert name not in repo.instances
        assert not (Path(catalog.url) / instance.prefix / "log").exists()


@pytest.mark.parametrize("round_number", range(6))
def test_the_first_writes_of_many_threads(tmp_path: Path, round_number: int) -> None:
    """Mode "a": all threads find the store unlocked, one makes it writable, none writes before that."""
    folder = tmp_path / "store"
    with dvidzarr.open(folder, "w", settings_for()) as first:
        first.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        for value in range(30):
            write(first.repos[0].instance("gray").at(), value)
    with dvidzarr.open(folder, "a", settings_for()) as catalog:
        view = catalog.repos[0].instance("gray").at()
        if round_number % 2:
            view.read(BOX)
        boxes = [Box((4 * n, 0, 0), (4 * n + 4, 8, 8)) for n in range(8)]
        raised = at_once(*(lambda n=n, box=box: write(view, n + 1, box) for n, box in enumerate(boxes)))  # type: ignore[misc]
        assert raised == []
        assert [int(view.read(box).max()) for box in boxes] == list(range(1, 9))
    with dvidzarr.open(folder, "r", settings_for()) as catalog:
        view = catalog.repos[0].instance("gray").at()
        assert [int(view.read(box).min()) for box in boxes] == list(range(1, 9))
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_verify_beside_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded while a log is looked at is no damage."""
    get, values = LocalBackend.get, iter(range(1, 1000))
    with dvidzarr.open(tmp_path / "store", "w", settings_for()) as catalog:
        view = catalog.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()
        write(view, 0)

        def late(backend: LocalBackend, key: str) -> bytes | None:
            data = get(backend, key)
            if key.endswith(".log"):
                with monkeypatch.context() as patch:
                    patch.setattr(LocalBackend, "get", get)
                    write(view, next(values))
            return data

        monkeypatch.setattr(LocalBackend, "get", late)
        assert [f for f in catalog.verify() if f.severity == "error"] == []
        assert next(values) > 2


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_closing_while_writing(tmp_path: Path, durability: str) -> None:
    """A write that races with `close` is acknowledged and there, or refused."""
    for number in range(8):
        folder = tmp_path / str(number)
        catalog = dvidzarr.open(folder, "w", settings_for(durability))
        view = catalog.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()
        done = [-1, -1]

        def write_many(thread: int, view: VoxelView = view, done: list[int] = done) -> None:
            for value in range(250):
                write(view, value, Box((4 * thread, 0, 0), (4 * thread + 4, 4, 4)))
                done[thread] = value

        def close(catalog: Catalog = catalog) -> None:
            time.sleep(0.02)
            catalog.close()

        raised = at_once(lambda: write_many(0), lambda: write_many(1), close)
        assert all(isinstance(error, (DvidzarrError, RuntimeError)) for error in raised), raised
        with dvidzarr.open(folder, "w", settings_for(durability)) as again:
            voxels = again.repos[0].instance("gray").at().read(BOX)
            for thread in range(2):
                assert done[thread] <= voxels[4 * thread, 0, 0] <= done[thread] + 1 or done[thread] == -1
            assert [f for f in again.verify(deep=True) if f.severity == "error"] == []


def test_flushes_and_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability `fast`: background flushes while the log begins new segments and superseded objects go."""
    monkeypatch.setattr(log, "SEGMENT_SIZE", 2000)
    with dvidzarr.open(tmp_path / "store", "w", settings_for("fast")) as catalog:
        view = catalog.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()

        def write_many(start: int) -> None:
            for value in range(150):
                write(view, value, Box((start, 0, 0), (start + 4, 4, 4)))

        assert at_once(lambda: write_many(0), lambda: write_many(4), lambda: write_many(8)) == []
        repo = catalog.repos[0]
        repo.commit(repo.dag.root)
    with dvidzarr.open(tmp_path / "store", "w", settings_for("fast")) as catalog:
        view = catalog.repos[0].instance("gray").at()
        assert [int(view.read(Box((z, 0, 0), (z + 4, 4, 4))).min()) for z in (0, 4, 8)] == [149] * 3


def test_threads_that_follow(tmp_path: Path) -> None:
    """Many readers of one follower read on in the log at the same time."""
    with (
        dvidzarr.open(tmp_path / "store", "w", settings_for()) as writer,
        dvidzarr.open(tmp_path / "store", "r", settings_for()) as reader,
    ):
        target = writer.create_repo("races").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()
        write(target, 1)
        view = reader.repos[0].instance("gray").at()
        done = threading.Event()

        def follow() -> None:
            last = 0
            while not done.is_set():
                values = np.unique(view.read(BOX))
                assert len(values) == 1
                assert values[0] >= last
                last = int(values[0])

        def write_many() -> None:
            try:
                for value in range(2, 250):
                    write(target, value)
            finally:
                done.set()

        assert at_once(write_many, follow, follow, follow) == []


def test_reading_while_a_version_is_locked_and_finished(catalog: Catalog) -> None:
    """Finishing puts rewritten chunks under their Zarr keys: who resolved older ones must not see some of each."""
    repo = catalog.repos[0]
    for _ in range(20):
        version = repo.dag.head("")
        view, done = repo.instance("gray").at(version), threading.Event()
        write(view, 1)

        def read(view: VoxelView = view, done: threading.Event = done) -> None:
            while not done.is_set():
                assert len(np.unique(view.read(BOX))) == 1

        def rewrite(view: VoxelView = view, done: threading.Event = done) -> None:
            try:
                for value in range(2, 6):
                    write(view, value)
                repo.commit(view.version)
                assert catalog.context.housekeeper.settle(120)
            finally:
                done.set()

        assert at_once(rewrite, read, read) == []
        repo.new_version(version)


def test_a_reader_of_a_state_that_is_gone_is_told_so(catalog: Catalog) -> None:
    view = catalog.repos[0].instance("gray").at()
    for value in (1, 2):
        write(view, value)
    reader = view.reader(BOX)
    lower, upper = Box((0, 0, 0), (4, 8, 8)), Box((4, 0, 0), (8, 8, 8))
    assert (reader.read(lower) == 2).all()
    write(view, 3)
    assert catalog.context.housekeeper.settle(120)
    with pytest.raises(BusyError, match="written again"):
        reader.read(upper)
    fresh = view.reader(BOX)
    write(view, 4)
    assert catalog.context.housekeeper.settle(120)
    assert (fresh.read(lower) == 4).all()  # nothing was given yet: it starts again
    assert (fresh.read(upper) == 4).all()
