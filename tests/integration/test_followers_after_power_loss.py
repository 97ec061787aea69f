"""What processes that only read show of a store after a power loss, before and while a writer recovers it."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import BusyError, CorruptionError, StorageError
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.instance import Instance
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import flush
from dvidzarr.storage.frames import Entry, Kind
from tests.integration.damaged_store import flip

FAST = Settings.load(
    env={}, overrides={"storage.durability": "fast", "storage.flush_interval_s": 1000, "compute.threads": 1}
)
KEPT, LOST = Box((0, 0, 0), (4, 4, 4)), Box((0, 0, 4), (4, 4, 8))
BOTH = Box((0, 0, 0), (4, 4, 8))
KEYS = [f"{number:03}" for number in range(40)]
LARGE = bytes(range(256)) * 1024


def instances(catalog: Catalog) -> tuple[Any, Any]:
    repo = catalog.repos[0]
    return repo.instance("gray").at(), repo.instance("notes").at()


def write(catalog: Catalog, value: int) -> None:
    gray, notes = instances(catalog)
    gray.write(BOTH, np.full(BOTH.shape, value, np.uint8))
    notes.update(dict.fromkeys(KEYS, b"%d" % value) | {f"only {value}": b"", "large": LARGE})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Make a store as a power loss leaves it: of the last requests, not flushed, some objects are lost."""
    with dvidzarr.open(tmp_path / "whole", "w", FAST) as catalog:
        repo = catalog.create_repo()
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        repo.create_instance("keyvalue", "notes")
        for value in range(1, 8):
            write(catalog, value)
        gray, notes = instances(catalog)
        for view in (gray, notes):
            flush(view.instance.dataset)
        assert not notes.instance.dataset.unflushed
        write(catalog, 8)
        (blob,) = notes.instance.dataset.unflushed
        (row,) = gray.chunks.own(0, [(0, 0, 1)])
        piece = gray.chunks.part(0, (0, 0, 1), row[1], row[4])
        shutil.copytree(tmp_path / "whole", tmp_path / "store")
    (tmp_path / "store" / blob).write_bytes(b"")
    with (tmp_path / "store" / piece.key).open("r+b") as file:
        file.seek(piece.offset)
        file.write(bytes(row[4]))
    return tmp_path / "store"


def read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let followers take long to start again, and between reading on in the log and looking something up."""
    apply, opened = Dataset._apply, Instance.dataset.fget
    assert opened is not None

    def apply_slowly(this: Dataset, entry: Entry) -> None:
        time.sleep(0 if this.writable else 0.01)
        apply(this, entry)

    def look_slowly(this: Instance) -> Dataset:
        found: Dataset = opened(this)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(Dataset, "_apply", apply_slowly)
    monkeypatch.setattr(Instance, "dataset", property(look_slowly))


class Lookers:
    """Threads that look at something again and again while the `with` block runs.

    Attributes
    ----------
    seen
        What each of them saw, by name.
    errors
        What ended one of them.
    """

    def __init__(self, readers: dict[str, Callable[[], Any]]) -> None:
        self.seen: dict[str, set[Any]] = {name: set() for name in readers}
        self.errors: list[BaseException] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=item) for item in readers.items()]

    def _look(self, name: str, what: Callable[[], Any]) -> None:
        try:
            while not self._done.is_set():
                self.seen[name].add(what())
        except BaseException as error:  # noqa: BLE001 - it is what the test is about
            self.errors.append(error)

    def __enter__(self) -> "Lookers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def readers_of(views: tuple[Any, Any]) -> dict[str, Callable[[], Any]]:
    gray, notes = views
    return {
        "chunks": lambda: tuple(np.unique(gray.read(KEPT)).tolist()),
        "extents": lambda: gray.extents,
        "values": lambda: tuple(set(notes.get_many(KEYS).values())),
        "keys": lambda: tuple(key for key in notes if key.startswith(("only 7", "only 8"))),
        "range": lambda: tuple({value for key, value in notes.range("000", "039")}),
    }


def test_readers_see_the_old_state_or_the_new_one_while_void_requests_are_dropped(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dvidzarr.open(store, "r", FAST) as follower:
        gray, notes = instances(follower)
        readers = readers_of((gray, notes))
        first = {name: what() for name, what in readers.items()}
        read_slowly(monkeypatch)
        with Lookers(readers) as lookers, dvidzarr.open(store, "w", FAST) as writer:
            for view in instances(writer):
                assert any(entry.kind == Kind.VOID for entry in view.instance.records())
            time.sleep(0.2)
            for view in (gray, notes):
                view.instance.catch_up()
        assert lookers.errors == []
        last = {name: what() for name, what in readers.items()}
        assert (first["chunks"], last["chunks"]) == ((8,), (7,))
        assert (first["values"], last["values"]) == ((b"8",), (b"7",))
        assert (first["keys"], last["keys"]) == (("only 7", "only 8"), ("only 7",))
        strange = {name: found - {first[name], last[name]} for name, found in lookers.seen.items()}
        assert not any(strange.values()), strange


def test_void_requests_are_dropped_though_it_failed_at_first(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays, documents and model are replaced together, at the next look if not at the first."""

    def fail(*_: object) -> None:
        raise StorageError("for a moment")

    with dvidzarr.open(store, "r", FAST) as follower:
        gray, notes = instances(follower)
        assert notes.get("000") == b"8"
        with dvidzarr.open(store, "w", FAST) as writer:
            for view in instances(writer):
                _ = view.instance.dataset  # drops the void requests
            with monkeypatch.context() as patch:
                patch.setattr(DatasetCaches, "adopt", fail)
                with pytest.raises(StorageError, match="for a moment"):
                    notes.get("000")
            assert dict(notes) == dict(instances(writer)[1])
            assert notes.get("000") == b"7"
            assert (gray.read(BOTH) == 7).all()


def test_readers_leave_the_files_alone_of_a_writer_that_starts_again(store: Path) -> None:
    """Reader and writer share the folder of caches."""
    with dvidzarr.open(store, "r", FAST) as follower:
        _, notes = instances(follower)
        assert notes.get("000") == b"8"
        with dvidzarr.open(store, "w", FAST) as writer:
            for view in instances(writer):
                _ = view.instance.dataset
            theirs = writer.context.cache_dir / f"{notes.instance.id}-again" / "index.sqlite"
            theirs.parent.mkdir()
            theirs.touch()
            assert notes.get("000") == b"7"
            assert theirs.exists()


def test_what_was_not_flushed_awaits_recovery(store: Path) -> None:
    with dvidzarr.open(store, "r", FAST) as follower:
        gray, notes = instances(follower)
        assert (gray.read(KEPT) == 8).all()
        for read in (
            lambda: gray.read(LOST),
            lambda: notes["large"],
            lambda: notes.get_slice("large", 5, 10),
            lambda: notes.get_many(["large"]),
        ):
            with pytest.raises(BusyError, match=r"not flushed .* awaits recovery"):
                read()
        assert {found.severity for found in follower.verify(deep=True)} == {"note", "warning"}
        with dvidzarr.open(store, "w", FAST) as writer:
            for found in instances(writer):
                found.instance.catch_up()
        assert (gray.read(BOTH) == 7).all()
        assert (notes["large"], notes.get_slice("large", 5, 10)) == (LARGE, LARGE[5:10])
        assert {found.severity for found in follower.verify(deep=True)} == {"note"}


def logs(store: Path) -> list[tuple[Path, bytes]]:
    """Return the logs and what they hold, without the zeros at their ends."""
    paths = sorted(store.glob("repos/*/data/*/log/00000001.log"))
    return [(path, path.read_bytes().rstrip(b"\0")) for path in paths]


@pytest.mark.parametrize("filler", [b"", bytes(900), b"x" * 900, b"x" * 900 + bytes(1 << 20)])
def test_a_log_ends_where_the_power_loss_cut_it(store: Path, filler: bytes) -> None:
    for path, whole in logs(store):
        path.write_bytes(whole[:-20] + filler)
    with dvidzarr.open(store, "r", FAST) as follower:
        gray, notes = instances(follower)
        for _ in range(2):
            assert (gray.read(BOTH) == 7).all()
            assert [key for key in notes if key.startswith("only")] == [
                f"only {value}" for value in range(1, 8)
            ]
            assert notes["large"] == LARGE
        with dvidzarr.open(store, "w", FAST) as writer:
            assert (gray.read(BOTH) == 7).all()
            write(writer, 9)
            assert (gray.read(BOTH) == 9).all()
            assert notes["000"] == b"9"


def test_damage_of_what_was_flushed_is_no_power_loss(store: Path) -> None:
    for path, whole in logs(store):
        at = len(whole) // 3
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with dvidzarr.open(store, "r", FAST) as follower:
        gray, notes = instances(follower)
        for read in (lambda: gray.read(BOTH), lambda: notes["000"]):
            with pytest.raises(CorruptionError, match="cannot be read beyond"):
                read()


# --- the published numbers -------------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Make a store that was closed; with the caches of readers out of the way."""
    with dvidzarr.open(tmp_path / "closed", "w") as catalog:
        repo = catalog.create_repo()
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        repo.create_instance("keyvalue", "notes")
        for value in range(1, 4):
            write(catalog, value)
    shutil.rmtree(tmp_path / "closed/cache")
    return tmp_path / "closed"


def lose_words(folder: Path, number: int | None) -> None:
    """Let a power loss take the published numbers back, or away."""
    for path in folder.rglob("applied"):
        path.unlink() if number is None else path.write_bytes(number.to_bytes(8, "little"))


def shown(folder: Path) -> list[int]:
    with dvidzarr.open(folder, "r") as catalog:
        if not catalog.repos:
            return []
        gray, notes = instances(catalog)
        assert not len(notes) or notes["large"] == LARGE
        return np.unique(gray.read(BOTH)).tolist()


@pytest.mark.parametrize("number", [None, 0, 2], ids=["gone", "zero", "behind"])
@pytest.mark.parametrize(
    "note", [None, b"", b'{"clean": false, "boot": "the one before"}', b'{"pid": 1, "cle']
)
def test_readers_see_all_that_a_power_loss_left(closed: Path, number: int | None, note: bytes | None) -> None:
    if note is None:
        (closed / "lock").unlink()
    else:
        (closed / "lock").write_bytes(note)
    lose_words(closed, number)
    assert shown(closed) == [3]
    with dvidzarr.open(closed, "w") as catalog:
        write(catalog, 4)
        assert shown(closed) == [4]


@pytest.mark.parametrize("number", [None, 0, 2], ids=["gone", "zero", "behind"])
def test_readers_see_all_of_a_store_that_was_closed(closed: Path, number: int | None) -> None:
    lose_words(closed, number)
    assert shown(closed) == [3]


def test_readers_see_what_was_published_of_a_store_that_is_written(closed: Path) -> None:
    """What a writer that was killed had not published may not be on the disk."""
    lock = closed / "lock"
    lock.write_bytes(lock.read_bytes().replace(b'"clean":true', b'"clean":false'))
    with dvidzarr.open(closed, "r") as catalog:
        prefix, tail = instances(catalog)[0].instance.prefix, instances(catalog)[0].instance.dataset.log.tail
    (closed / prefix / "log/applied").write_bytes((tail.sequence - 1).to_bytes(8, "little"))
    assert shown(closed) == [2]


def test_damage_is_damage_whatever_was_published(closed: Path) -> None:
    with dvidzarr.open(closed, "r") as catalog:
        gray, _ = instances(catalog)
        second = [entry for entry in gray.instance.records() if entry.kind == Kind.CHUNKS][1]
        path = closed / gray.instance.prefix / "log/00000001.log"
    flip(path, second.offset)
    lose_words(closed, 0)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="cannot be read beyond"):
            shown(closed)
