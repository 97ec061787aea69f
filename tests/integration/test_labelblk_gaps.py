"""What a follower of labels could not take in: it is not forgotten, not locked away, and nothing else is taken in for it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import BusyError, DvidzarrError, NoSpaceError, StorageError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.labelblk import model
from dvidzarr.datatypes.labelblk.downsample import downsampled
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.instance import Instance
from dvidzarr.server.app import running
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.frames import Kind

FINE, COARSE = Box((0, 0, 0), (16, 16, 16)), Box((0, 0, 0), (8, 8, 8))


def random_labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 9, (16, 16, 16), np.uint64)


def pair(catalog: Catalog, follower: str = "half") -> tuple[Any, Any]:
    """Return labels and others that are synced with them."""
    repo = catalog.repos[0] if catalog.repos else catalog.create_repo()
    if "seg" not in repo.instances:
        repo.create_instance("labelblk", "seg", {"BlockSize": "8,8,8"})
    half = repo.create_instance("labelblk", follower, {"BlockSize": "8,8,8"})
    half.set_syncs(["seg"])
    return repo.instance("seg"), half


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, error: DvidzarrError, follower: str = "half") -> Iterator[None]:
    """Let nothing be written to a follower."""
    real = model.follow

    def follow(source: Any, target: Any, *args: Any, **more: Any) -> np.ndarray:  # noqa: ANN401 - as `follow` has it
        if target.instance.name == follower:
            raise error
        return real(source, target, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(model, "follow", follow)
        yield


@contextmanager
def opened(store: Path) -> Iterator[tuple[Catalog, Any, Any]]:
    """Open a store again, and wait until the follower has done what it does then."""
    with dvidzarr.open(store, "w") as catalog:
        seg, half = (catalog.repos[0].instance(name) for name in ("seg", "half"))
        _ = half.dataset
        assert catalog.context.housekeeper.settle(120)
        yield catalog, seg, half


@pytest.mark.parametrize(
    ("error", "status"),
    [(NoSpaceError("no room"), 507), (BusyError("not now"), 503), (StorageError("no such device"), 500)],
)
def test_a_version_is_not_locked_while_a_follower_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DvidzarrError, status: int
) -> None:
    labels = random_labels(1)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, half = pair(catalog)
        repo = seg.repo
        with (
            failing(monkeypatch, error),
            running(catalog, Settings()) as address,
            httpx.Client(base_url=address, timeout=120) as http,
        ):
            with pytest.raises(type(error)):
                seg.at().write(FINE, labels)
            answer = http.post(f"/api/node/{repo.root}/commit", json={"note": "done"})
            assert answer.status_code == status
            assert all(word in answer.text for word in (repo.root, '"half"', str(error)))
            with pytest.raises(type(error), match="cannot be locked"):
                repo.commit(repo.root)
        assert not repo.dag.root.locked
        assert repo.dag.root.note == ""
        repo.commit(repo.root)
        assert np.array_equal(half.at(repo.root).read(COARSE), downsampled(labels))
    with opened(tmp_path / "store") as (_, _, half):
        assert np.array_equal(half.at(half.repo.root).read(COARSE), downsampled(labels))


def test_what_was_not_taken_in_is_not_claimed_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = random_labels(2)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, _ = pair(catalog)
        with failing(monkeypatch, NoSpaceError("no room")), pytest.raises(NoSpaceError, match="no room"):
            seg.at().write(FINE, labels)
        labels[:8, :8, :8] = 5
        seg.at().write(Box((0, 0, 0), (8, 8, 8)), labels[:8, :8, :8])
    with opened(tmp_path / "store") as (_, _, half):
        assert np.array_equal(half.at().read(COARSE), downsampled(labels))


def test_it_is_made_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_RETRY_S", 0.01)
    labels = random_labels(3)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, half = pair(catalog)
        tries = []

        def follow(*args: Any, **more: Any) -> np.ndarray:  # noqa: ANN401 - as `follow` has it
            tries.append(args)
            if len(tries) < 4:
                raise NoSpaceError("no room")
            return real(*args, **more)

        real = model.follow
        monkeypatch.setattr(model, "follow", follow)
        with pytest.raises(NoSpaceError):
            seg.at().write(FINE, labels)
        deadline = time.monotonic() + 120
        while len(tries) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert catalog.context.housekeeper.settle(120)
        assert np.array_equal(half.at().read(COARSE), downsampled(labels))


@pytest.mark.parametrize("broken", ["half", "other"])
def test_one_follower_that_fails_keeps_no_other_from_following(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    labels = random_labels(4)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, half = pair(catalog)
        _, other = pair(catalog, "other")
        with failing(monkeypatch, NoSpaceError("no room"), broken), pytest.raises(NoSpaceError):
            seg.at().write(FINE, labels)
        for follower in (half, other):
            seen = follower.at().read(COARSE)
            assert np.array_equal(seen, downsampled(labels)) == (follower.name != broken)


def test_nothing_is_written_if_a_follower_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        pair(catalog)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, half = (catalog.repos[0].instance(name) for name in ("seg", "half"))
        with unopenable(monkeypatch, half), pytest.raises(StorageError, match="too many open files"):
            seg.at().write(FINE, random_labels(5))
        assert not seg.at().read(FINE).any()


@contextmanager
def unopenable(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> Iterator[None]:
    """Let an instance not be opened."""
    real = Dataset.open

    def refused(dataset: Dataset, *, writable: bool) -> None:
        if dataset.data_id == instance.id:
            raise StorageError("too many open files")
        real(dataset, writable=writable)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "open", refused)
        yield


def with_own_labels(store: Path) -> None:
    """Make a store with labels, and others that held some of their own before they were synced with them."""
    with dvidzarr.open(store, "w") as catalog:
        repo = catalog.create_repo()
        seg, half = (
            repo.create_instance("labelblk", name, {"BlockSize": "8,8,8"}) for name in ("seg", "half")
        )
        seg.at()[0:16, 0:16, 0:16] = 5
        half.at()[0:8, 0:8, 0:8] = 7
        half.set_syncs(["seg"])


def test_own_labels_stay_when_the_source_cannot_be_opened_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_own_labels(tmp_path / "store")
    with (
        opened(tmp_path / "store") as (_, seg, _),
        failing(monkeypatch, NoSpaceError("no room")),
        pytest.raises(NoSpaceError),
    ):
        seg.at()[0:8, 0:8, 16:24] = 6
    monkeypatch.setattr(model, "_RETRY_S", 0.01)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, half = (catalog.repos[0].instance(name) for name in ("seg", "half"))
        with unopenable(monkeypatch, seg):
            _ = half.dataset
            with pytest.raises(StorageError, match="too many open files"):
                half.repo.commit(half.repo.root)
        half.repo.commit(half.repo.root)
        seen = half.at(half.repo.root)[0:8, 0:8, 0:12]
        assert (seen[..., :8] == 7).all()
        assert (seen[:4, :4, 8:] == 6).all()


@pytest.mark.parametrize("since", [True, False], ids=["said", "of an older record"])
def test_own_labels_stay_when_a_power_loss_took_what_the_source_wrote(tmp_path: Path, *, since: bool) -> None:
    store = tmp_path / "store"
    with_own_labels(store)
    with dvidzarr.open(store, "w") as catalog:
        seg, half = (catalog.repos[0].instance(name) for name in ("seg", "half"))
        if not since:
            half.set_syncs([], replace=True)
            header = {"sources": {seg.id: seg.dataset.log.tail.sequence}}
            half.dataset.append(Kind.SETTINGS, None, Author(), header)
        seg.at()[0:8, 0:8, 16:24] = 6
        folder = store / seg.prefix
    shutil.copytree(folder, tmp_path / "before")
    with dvidzarr.open(store, "w") as catalog:
        seg = catalog.repos[0].instance("seg")
        for _ in range(5):
            seg.at()[0:8, 0:8, 16:24] = 9
    shutil.rmtree(folder)
    shutil.move(tmp_path / "before", folder)
    with opened(store) as (_, seg, half):
        assert set(np.unique(seg.at()[0:16, 0:16, 0:24])) == {0, 5, 6}
        seen = half.at()[0:8, 0:8, 0:12]
        assert (seen[..., :8] == 7).all()
        assert (seen[:4, :4, 8:] == 6).all()


def test_labels_that_are_followed_anew_are_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_own_labels(tmp_path / "store")
    with opened(tmp_path / "store") as (_, seg, half):
        with failing(monkeypatch, NoSpaceError("no room")), pytest.raises(NoSpaceError):
            seg.at()[0:8, 0:8, 0:8] = 6
        half.set_syncs([], replace=True)
        half.set_syncs(["seg"])
        half.repo.commit(half.repo.root)
        assert (half.at(half.repo.root)[0:8, 0:8, 0:8] == 7).all()


def test_a_lasting_failure_does_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again and again, said at once, and said again when the reason is another one."""
    monkeypatch.setattr(model, "_RETRY_S", 0.001)
    tries = []

    def follow(*_: Any) -> np.ndarray:  # noqa: ANN401 - as `follow` has it
        tries.append(1)
        raise StorageError("unreadable" if len(tries) < 20 else "gone")

    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        seg, _ = pair(catalog)
        monkeypatch.setattr(model, "follow", lambda *args, **_: follow(*args))
        with pytest.raises(StorageError):
            seg.at().write(FINE, random_labels(4))
        deadline = time.monotonic() + 120
        while len(tries) < 40:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    said = [record.message for record in caplog.records if "could not catch up" in record.message]
    assert said == [f"half could not catch up with seg: {why}" for why in ("unreadable", "gone")]
