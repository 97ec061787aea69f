"""Label instances that follow others as their half resolution (spec-voxels §7.2)."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import InvalidInputError, VersionLockedError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.labelblk import model
from dvidzarr.datatypes.labelblk.downsample import downsampled
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.frames import Kind

RANDOM = np.random.default_rng(4)


def random_labels(*shape: int) -> np.ndarray:
    return RANDOM.integers(2**64 - 4, 2**64 - 1, shape, np.uint64, endpoint=True)


def box(*shape: int, at: tuple[int, int, int] = (0, 0, 0)) -> Box:
    return Box(at, tuple(a + b for a, b in zip(at, shape, strict=True)))  # type: ignore[arg-type]


def family(repo: Repo, blocks: str = "8,8,8", half_blocks: str = "8,8,8") -> tuple[Any, Any, Any]:
    seg = repo.create_instance("labelblk", "seg", {"BlockSize": blocks})
    half = repo.create_instance("labelblk", "half", {"BlockSize": half_blocks})
    quarter = repo.create_instance("labelblk", "quarter", {"BlockSize": "8,8,8"})
    half.set_syncs(["seg"])
    quarter.set_syncs(["half"])
    return seg, half, quarter


@pytest.mark.parametrize(
    ("blocks", "half_blocks"), [("8,8,8", "8,8,8"), ("16,8,4", "8,8,8"), ("5,7,3", "4,6,9")]
)
def test_chain_and_any_block_size(tmp_path: Path, blocks: str, half_blocks: str) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        seg, half, quarter = family(catalog.create_repo(), blocks, half_blocks)
        labels = random_labels(24, 56, 40)
        seg.at().write(box(24, 56, 40), labels)
        assert np.array_equal(half.at().read(box(12, 28, 20)), downsampled(labels))
        assert np.array_equal(quarter.at().read(box(6, 14, 10)), downsampled(downsampled(labels)))
        part = random_labels(7, 5, 6)
        seg.at().write(box(7, 5, 6, at=(9, 3, 11)), part)
        labels[9:16, 3:8, 11:17] = part
        assert np.array_equal(half.at().read(box(12, 28, 20)), downsampled(labels))
        assert np.array_equal(quarter.at().read(box(6, 14, 10)), downsampled(downsampled(labels)))


def test_octants_that_nobody_wrote_stay(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        seg = repo.create_instance("labelblk", "seg", {"BlockSize": "8,8,8"})
        half = repo.create_instance("labelblk", "half", {"BlockSize": "8,8,8"})
        before, old = random_labels(8, 8, 8), random_labels(8, 8, 8)
        seg.at().write(box(8, 8, 8), before)
        half.at().write(box(8, 8, 8), old)
        half.set_syncs(["seg"])
        assert np.array_equal(half.at().read(box(8, 8, 8)), old)
        fresh = random_labels(8, 8, 8)
        seg.at().write_blocks(np.array([[0, 0, 1]]), fresh[None])
        old[:4, :4, 4:] = downsampled(fresh)
        assert np.array_equal(half.at().read(box(8, 8, 8)), old)
        assert half.at().extents == box(8, 8, 8)


def test_versions_have_their_own(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        seg, half, _ = family(repo)
        first, second = random_labels(16, 16, 16), random_labels(8, 8, 8)
        seg.at().write(box(16, 16, 16), first)
        root = repo.commit(repo.dag.root)
        child = repo.new_version(root)
        seg.at(child).write(box(8, 8, 8), second)
        assert np.array_equal(half.at(root).read(box(8, 8, 8)), downsampled(first))
        first[:8, :8, :8] = second
        assert np.array_equal(half.at(child).read(box(8, 8, 8)), downsampled(first))


def test_names_cycles_and_replacement(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        seg, half, quarter = family(repo)
        repo.create_instance("uint8blk", "gray")
        repo.create_instance("labelblk", "flat", {"Versioned": "false"})
        for follower, name in (
            (seg, "seg"),
            (seg, "half"),
            (seg, "quarter"),
            (half, "gray"),
            (half, "flat"),
            (half, "x"),
        ):
            with pytest.raises(InvalidInputError):
                follower.set_syncs([name])
        repo.rename_instance("seg", "fine")
        assert half.syncs == ("fine",)
        half.set_syncs([])
        assert half.syncs == ("fine",)
        half.set_syncs([], replace=True)
        assert (half.syncs, quarter.syncs) == ((), ("half",))
        told = [line.split("  ", 1)[1] for line in repo.log if "sync" in line]
        assert told == [
            f'Data instance "half" set to sync with map[{seg.id}:{{}}]',
            f'Data instance "quarter" set to sync with map[{half.id}:{{}}]',
            'Data instance "half" set to sync with map[]',
        ]
        seg.at().write(box(8, 8, 8), random_labels(8, 8, 8))
        assert not half.at().read(box(8, 8, 8)).any()
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.repos[0]
        assert [repo.instance(name).syncs for name in ("half", "quarter")] == [(), ("half",)]
        repo.delete_instance("quarter")
        repo.instance("half").at().write(box(8, 8, 8), random_labels(8, 8, 8))


def test_what_a_crash_left_out_is_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = random_labels(16, 16, 16)
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        seg, *_ = family(repo)
        seg.at().write(box(16, 16, 16), random_labels(16, 16, 16))
        monkeypatch.setattr(model.LabelView, "written", lambda *_: None)  # as if the process ended here
        seg.at().write(box(8, 8, 8), labels[:8, :8, :8])
        monkeypatch.undo()
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.repos[0]
        catalog.become_writer()
        version = repo.commit(repo.dag.root)  # nothing was read before: committing itself must complete it
        fine = repo.instance("seg").at(version).read(box(16, 16, 16))
        assert np.array_equal(fine[:8, :8, :8], labels[:8, :8, :8])
        assert np.array_equal(repo.instance("half").at(version).read(box(8, 8, 8)), downsampled(fine))
        coarse = downsampled(downsampled(fine))
        assert np.array_equal(repo.instance("quarter").at(version).read(box(4, 4, 4)), coarse)
        tail = repo.instance("half").dataset.log.tail
    with dvidzarr.open(tmp_path / "store", mode="w") as catalog:
        assert (
            catalog.repos[0].instance("half").dataset.log.tail.sequence <= tail.sequence + 1
        )  # finished, no more


def test_writers_at_the_same_time_and_a_commit(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        seg, half, quarter = family(repo)
        corners = [(8 * z, 8 * y, 8 * x) for z, y, x in np.ndindex(4, 2, 2)]
        locked: list[Exception] = []

        def write(mine: list[tuple[int, int, int]], seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                for corner in mine * 3:
                    seg.at(repo.root).write(
                        box(8, 8, 8, at=corner), random.integers(0, 9, (8, 8, 8), np.uint64)
                    )
            except VersionLockedError as error:
                locked.append(error)

        threads = [threading.Thread(target=write, args=(corners[n::2], n)) for n in range(4)]
        for thread in threads:
            thread.start()
        threads[0].join()
        version = repo.commit(repo.dag.root)
        for thread in threads:
            thread.join()
        fine = seg.at(version).read(box(32, 16, 16))
        assert np.array_equal(half.at(version).read(box(16, 8, 8)), downsampled(fine))
        assert np.array_equal(quarter.at(version).read(box(8, 4, 4)), downsampled(downsampled(fine)))


def left_behind(store: Path, monkeypatch: pytest.MonkeyPatch, *, full_write: bool = False) -> np.ndarray:
    """Make a store whose last write to `seg` did not reach `half`; return the labels."""
    labels = random_labels(16, 16, 16)
    with dvidzarr.open(store, "w", full_write=full_write) as catalog, monkeypatch.context() as patch:
        repo = catalog.create_repo()
        seg, *_ = family(repo)
        seg.at().write(box(16, 16, 16), random_labels(16, 16, 16))
        if full_write:
            repo.commit(repo.dag.root)
        patch.setattr(model, "follow", lambda *_args, **_more: 1 / 0)  # as if the process ended here
        with pytest.raises(ZeroDivisionError):
            seg.at(repo.root).write(box(16, 16, 16), labels)
    return labels


def test_a_version_does_not_change_any_more_while_a_follower_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = left_behind(tmp_path / "store", monkeypatch)
    begun, go_on = threading.Event(), threading.Event()
    real = model.follow

    def slowly(*args: Any, **options: Any) -> np.ndarray:  # noqa: ANN401 - as `follow` has it
        begun.set()
        go_on.wait(5)
        return real(*args, **options)

    monkeypatch.setattr(model, "follow", slowly)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        repo = catalog.repos[0]
        opener = threading.Thread(target=lambda: repo.instance("half").dataset)
        opener.start()
        assert begun.wait(5)
        committer = threading.Thread(target=lambda: repo.commit(repo.dag.root))
        committer.start()
        committer.join(0.5)
        sealed = repo.dag.root.locked
        go_on.set()
        committer.join()
        opener.join()
        assert catalog.context.housekeeper.settle(120)
        assert not sealed
        half = repo.instance("half")
        assert np.array_equal(half.at(repo.root).read(box(8, 8, 8)), downsampled(labels))
        last = max(entry.sequence for entry in half.records() if entry.kind == Kind.CHUNKS)
        seal = repo.state.sealed_sequence(0, half.id)
        assert seal is not None
        assert last <= seal


def test_opening_waits_for_no_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = left_behind(tmp_path / "store", monkeypatch, full_write=True)
    with dvidzarr.open(tmp_path / "store", "w", full_write=True) as catalog:
        repo = catalog.repos[0]
        half, quarter = (repo.instance(name) for name in ("half", "quarter"))
        openers = [threading.Thread(target=lambda each=each: each.dataset) for each in (half, quarter)]
        with repo.gates.exclusive(("version", 0), 1, "the root"):
            for opener in openers:
                opener.start()
            for opener in openers:
                opener.join(5)
            assert half.opened
            assert quarter.opened
        for opener in openers:
            opener.join()
        assert catalog.context.housekeeper.settle(120)
        assert np.array_equal(half.at(repo.root).read(box(8, 8, 8)), downsampled(labels))
        assert np.array_equal(quarter.at(repo.root).read(box(4, 4, 4)), downsampled(downsampled(labels)))


def test_what_is_missing_is_not_forgotten_when_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = left_behind(tmp_path / "store", monkeypatch)
    fresh = random_labels(8, 8, 8)
    with monkeypatch.context() as patch, dvidzarr.open(tmp_path / "store", "w") as catalog:
        patch.setattr(model.LabelInstance, "_catch_up", lambda _self: None)  # it ends before that
        catalog.repos[0].instance("seg").at().write(box(8, 8, 8), fresh)
    labels[:8, :8, :8] = fresh
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        half = catalog.repos[0].instance("half")
        _ = half.dataset
        assert catalog.context.housekeeper.settle(120)
        assert np.array_equal(half.at().read(box(8, 8, 8)), downsampled(labels))
        tail = half.dataset.log.tail
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        half = catalog.repos[0].instance("half")
        _ = half.dataset
        assert catalog.context.housekeeper.settle(120)
        assert half.dataset.log.tail == tail  # it is known to be complete
