"""Chunks written again in an open version lie in packs: they cost little, give back their room, and go with finishing."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.garbage import collect
from dvidzarr.storage import local, packs, stretches, writing
from dvidzarr.storage.backend import BLOCK, Part
from dvidzarr.storage.openfiles import AppendFile
from dvidzarr.storage.tidying import tidy

EDGE = 32
WORLD = Box((0, 0, 0), (2 * EDGE, 2 * EDGE, 2 * EDGE))
CORNERS = [
    Box((z, y, x), (z + EDGE, y + EDGE, x + EDGE)) for z in (0, EDGE) for y in (0, EDGE) for x in (0, EDGE)
]
AT_ONCE = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 0})
PATIENT = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 1000})


def noise(seed: int, box: Box = WORLD) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, box.shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a store with one volume, written once."""
    with dvidzarr.open(tmp_path / "store", "w", AT_ONCE) as catalog:
        repo = catalog.create_repo("packs")
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": f"{EDGE},{EDGE},{EDGE}"})
        gray.at().write(WORLD, noise(0))
    return tmp_path / "store"


def pack_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("rewrites/*/*"))


def everything(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def room(folder: Path) -> int:
    """Return the bytes that the packs hold, without their holes."""
    return sum(map(held_by, pack_files(folder)))


def held_by(path: Path) -> int:
    """Return the bytes of a file without its holes: what is set aside behind its end is the file system's matter."""
    with path.open("rb") as file, suppress(OSError):  # beyond the last of its data there is none
        end, held = 0, 0
        while True:
            begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            held += end - begin
    return held


def errors(catalog: Catalog) -> list[str]:
    return [found.message for found in catalog.verify(deep=True) if found.severity == "error"]


def gives_back_room(folder: Path) -> bool:
    probe = folder / "probe"
    with probe.open("w+b") as file:
        file.write(bytes([1]) * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
        stretches.punch_hole(file.fileno(), 0, 1 << 20)
    gave = held_by(probe) == 0
    probe.unlink()
    return gave


def test_superseded_pieces_give_back_their_room(folder: Path) -> None:
    if not gives_back_room(folder):
        pytest.skip("this file system cannot give back stretches of a file")
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        view = catalog.repos[0].instance("gray").at()
        for seed in range(1, 30):
            view.write(WORLD, noise(seed))
        assert catalog.context.housekeeper.settle(120)
        (pack,) = pack_files(folder)
        assert pack.stat().st_size > 28 * WORLD.volume
        assert room(folder) < 3 * WORLD.volume
        np.testing.assert_array_equal(view.read(WORLD), noise(29))
        assert errors(catalog) == []


def test_pieces_stay_while_readers_may_want_them(folder: Path) -> None:
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at()
        view.write(WORLD, noise(1))
        reader = view.reader(WORLD)
        view.write(WORLD, noise(2))
        np.testing.assert_array_equal(reader.read(), noise(1))
        np.testing.assert_array_equal(view.read(WORLD), noise(2))


def test_a_request_may_span_packs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 3 * EDGE**3 + 4096)
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        view = catalog.repos[0].instance("gray").at()
        view.write(WORLD, noise(1))
        assert len(pack_files(folder)) > 2
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        view = catalog.repos[0].instance("gray").at()
        np.testing.assert_array_equal(view.read(WORLD), noise(1))
        before = len(pack_files(folder))
        view.write(CORNERS[0], noise(2, CORNERS[0]))
        assert len(pack_files(folder)) == before + 1  # what another process wrote is left alone
        assert errors(catalog) == []


def test_finishing_puts_pieces_under_their_zarr_keys(folder: Path) -> None:
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        repo = catalog.repos[0]
        view = repo.instance("gray").at()
        view.write(WORLD, noise(1))
        view.write(CORNERS[3], noise(2, CORNERS[3]))
        repo.commit(repo.dag.root)
        assert catalog.context.housekeeper.settle(120)
        assert pack_files(folder) == []
        expected = noise(1)
        expected[:EDGE, EDGE:, EDGE:] = noise(2, CORNERS[3])
        np.testing.assert_array_equal(view.read(WORLD), expected)
        place = folder / view.instance.prefix / "versions" / view.version.id / "0"
        np.testing.assert_array_equal(zarr.open_array(place, mode="r")[:], expected)
        child = repo.instance("gray").at(repo.new_version(repo.dag.root))
        child.write(CORNERS[0], noise(3, CORNERS[0]))
        assert pack_files(folder) == []  # the first time in this version
        assert errors(catalog) == []


async def test_what_is_superseded_is_not_collected_while_more_may_come(folder: Path) -> None:
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        view = catalog.repos[0].instance("gray").at()
        view.write(CORNERS[0], noise(1, CORNERS[0]))
        await view.store().delete("0/c/0/0/0")  # now no record names the pack
        (pack,) = pack_files(folder)
        for path in everything(folder):
            os.utime(path, (time.time() - 1e6,) * 2, follow_symlinks=False)
        assert [found for found in collect(catalog, dry_run=False) if not found.kept] == []
        view.write(CORNERS[1], noise(2, CORNERS[1]))
        assert pack_files(folder) == [pack]
        np.testing.assert_array_equal(view.read(CORNERS[1]), noise(2, CORNERS[1]))


def test_writers_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = AppendFile.sync

    def noting(file: AppendFile) -> None:
        synced.append(file._key)
        real(file)

    monkeypatch.setattr(AppendFile, "sync", noting)
    written, ready = packs.Packs(local.LocalBackend(tmp_path), packs.OpenPacks()), threading.Barrier(8)

    def write(which: int) -> None:
        with written.batch("rewrites/version") as batch:
            batch.append(bytes([which]) * 5000)
            ready.wait(120)
            batch.sync()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    written.close()
    assert len(synced) == 1


def test_writers_at_the_same_time(folder: Path) -> None:
    with dvidzarr.open(folder, "w", AT_ONCE) as catalog:
        view = catalog.repos[0].instance("gray").at()

        def write(which: int) -> None:
            for seed in range(10):
                view.write(CORNERS[which], noise(seed, CORNERS[which]))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        for corner in CORNERS:
            np.testing.assert_array_equal(view.read(corner), noise(9, corner))
        assert errors(catalog) == []


def open_packs() -> list[str]:
    """Return the packs that this process has open."""
    held = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of this listing is closed by now
            held.append(os.readlink(fd))
    return [path for path in held if "/rewrites/" in path]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("why", ["idle", "locked", "full", "closed"])
def test_a_pack_stays_open_until_it_is_not_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        repo = catalog.repos[0]
        view = repo.instance("gray").at()
        for seed in range(3):
            view.write(WORLD, noise(seed))
            (held,) = open_packs()
            assert Path(held).samefile(pack_files(folder)[0])
        if why == "idle":
            monkeypatch.setattr(packs, "IDLE_S", 0.0)
            monkeypatch.setattr(writing, "_REST_S", 0.05)
            view.write(WORLD, noise(3))
        elif why == "locked":
            repo.commit(repo.dag.root)
        elif why == "full":
            monkeypatch.setattr(packs, "PACK_BYTES", 1)
            view.write(CORNERS[0], noise(3, CORNERS[0]))
            assert held not in open_packs()
        else:
            catalog.close()
        if why != "full":
            deadline = time.monotonic() + 60
            while open_packs() and time.monotonic() < deadline:  # the rest is waited for, too
                time.sleep(0.01)
            assert open_packs() == []
        if why == "idle":
            view.write(WORLD, noise(4))
            assert len(pack_files(folder)) == 1, "it was not opened again"
            np.testing.assert_array_equal(view.read(WORLD), noise(4))


@needs_proc
def test_few_packs_are_open_however_many_are_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "OPEN", 3)
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        repo = catalog.repos[0]
        views = [
            repo.create_instance("uint8blk", f"g{number}", {"BlockSize": f"{EDGE},{EDGE},{EDGE}"}).at()
            for number in range(8)
        ]
        for seed in range(3):
            for number, view in enumerate(views):
                view.write(WORLD, noise(seed + number))
                assert len(open_packs()) <= 3
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: views[number].write(WORLD, noise(50 + number)), range(8)))
        assert len(open_packs()) == 3
        for number, view in enumerate(views):
            np.testing.assert_array_equal(view.read(WORLD), noise(50 + number))
        assert len(pack_files(folder)) == 8


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
def test_superseded_pieces_leave_the_memory_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[Part] = []
    monkeypatch.setattr(local, "drop_pages", lambda _, part: dropped.append(part))
    monkeypatch.setattr(writing, "_REST_S", 0.2)
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at()
        for seed in range(6):
            view.write(WORLD, noise(seed))
        deadline = time.monotonic() + 60
        (pack,) = pack_files(folder)
        key = str(pack.relative_to(folder))
        while sum(part.length for part in dropped) < 5 * WORLD.volume and time.monotonic() < deadline:
            time.sleep(0.01)
    in_pack = [part for part in dropped if part.key == key]
    (last,) = (-(-pack.stat().st_size // BLOCK) * BLOCK // 6,)  # the last of six writes is not superseded
    assert sum(part.length for part in in_pack) == 5 * last
    assert len(in_pack) <= 5, "stretches side by side were not joined"
    assert {part.length for part in dropped if part.key != key} == {0}


# --- what earlier processes left -------------------------------------------------------------------------------


def test_what_short_sessions_leave_is_given_back(folder: Path) -> None:
    """They end before the grace period does."""
    if not gives_back_room(folder):
        pytest.skip("this file system cannot give back stretches of a file")
    for seed in range(1, 10):
        with dvidzarr.open(folder, "w", PATIENT) as catalog:
            view = catalog.repos[0].instance("gray").at()
            corners = CORNERS[:4] if seed % 2 else CORNERS
            for corner in corners:
                view.write(corner, noise(seed, corner))
            expected = view.read(WORLD)
    assert len(pack_files(folder)) > 1
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at()
        np.testing.assert_array_equal(view.read(WORLD), expected)
        assert catalog.context.housekeeper.settle(120)
        assert len(pack_files(folder)) == 2
        assert room(folder) < WORLD.volume + 8 * 8192
        np.testing.assert_array_equal(view.read(WORLD), expected)
        assert errors(catalog) == []


def test_packs_of_finished_versions_go_with_the_next_session(folder: Path) -> None:
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        repo = catalog.repos[0]
        repo.instance("gray").at().write(WORLD, noise(1))
        repo.commit(repo.dag.root)
    assert pack_files(folder)
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at(catalog.repos[0].dag.root)
        np.testing.assert_array_equal(view.read(WORLD), noise(1))
        assert catalog.context.housekeeper.settle(120)
        assert pack_files(folder) == []
        np.testing.assert_array_equal(view.read(WORLD), noise(1))


def test_tidying_keeps_what_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that is full, or whose record comes later, is nobody's leftover."""
    monkeypatch.setattr(packs, "PACK_BYTES", EDGE**3)
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at()
        dataset = view.instance.dataset
        append = dataset.append

        def late(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as it is called
            tidy(dataset)
            return append(*args, **options)

        monkeypatch.setattr(dataset, "append", late)
        view.write(WORLD, noise(1))
        np.testing.assert_array_equal(view.read(WORLD), noise(1))


def test_a_pack_is_nobodys_leftover_from_the_beginning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who tidies up comes in when the file of a new pack is there, and nothing else yet."""
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        view = catalog.repos[0].instance("gray").at()
        dataset = view.instance.dataset
        create = local.LocalBackend.open_append

        def tidied(backend: local.LocalBackend, key: str, *, create: bool, make: Any = create) -> Any:  # noqa: ANN401
            file = make(backend, key, create=create)
            tidy(dataset)
            return file

        monkeypatch.setattr(local.LocalBackend, "open_append", tidied)
        for seed in (1, 2):
            view.write(WORLD, noise(seed))
            np.testing.assert_array_equal(view.read(WORLD), noise(seed))


def test_a_damaged_piece_keeps_its_version_unfinished_and_no_other(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with dvidzarr.open(folder, "w", PATIENT) as catalog:
        repo = catalog.repos[0]
        view = repo.instance("gray").at()
        view.write(WORLD, noise(1))
        (pack,) = pack_files(folder)
        (row,) = view.chunks.own(0, [(0, 0, 0)])  # threads put the pieces into any order
        with pack.open("r+b") as file:
            file.seek(view.chunks.part(0, (0, 0, 0), row[1], row[4]).offset + 100)
            file.write(bytes(10))
        repo.commit(repo.dag.root)
        child = repo.new_version(repo.dag.root)
        for seed in (2, 3):
            repo.instance("gray").at(child).write(CORNERS[0], noise(seed, CORNERS[0]))
        repo.commit(child)
        assert catalog.context.housekeeper.settle(120)
        assert repo.instance("gray").dataset.finished == {child.ordinal}
        assert "is not finished: chunk (0, 0, 0)" in caplog.text
    assert pack in pack_files(folder)
