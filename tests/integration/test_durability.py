"""What is acknowledged is on the disk; what cannot be put there is refused whole."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import NoSpaceError, StorageError
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.storage import local, log, openfiles, writing
from dvidzarr.storage.backend import BLOCK, RunAll, in_turn
from dvidzarr.storage.blobs import remove_blob, write_blob
from dvidzarr.storage.durability import flush
from dvidzarr.storage.frames import Kind, Position
from dvidzarr.storage.writing import get_document
from tests.integration.gray_store import BOX, FAST, FULL, gray, new_store, put, settings_for, write
from tests.integration.tracing import strace_refusal

ROOT = Path(__file__).resolve().parents[2]

# --- the order of system calls ---------------------------------------------------------------------------------

SCRIPT = """
import os, sys, numpy as np, dvidzarr
from dvidzarr.core.geometry import Box
with dvidzarr.open(sys.argv[1], "w") as catalog:
    repo = catalog.create_repo("traced")
    view = repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()
    for number in range(3):
        view.write(Box((0, 0, 0), (8, 8, 8)), np.full((8, 8, 8), number, np.uint8))
        os.write(1, b"ACKNOWLEDGED")
    repo.commit(repo.dag.root)
    os.write(1, b"ACKNOWLEDGED")
"""
_CALL = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_PATH = re.compile(r"<([^>]*)>")


def completed_calls(trace: str) -> Iterator[tuple[str, str]]:
    """Yield (call, arguments) in the order in which the calls ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        resumed = _RESUMED.match(line)
        if resumed:
            yield resumed["name"], begun.pop(resumed["pid"], "") + resumed["rest"]
            continue
        call = _CALL.match(line)
        if call and call["rest"].endswith("<unfinished ...>"):
            begun[call["pid"]] = call["rest"].removesuffix("<unfinished ...>")
            if call["name"] in {"write", "pwrite64"}:
                yield f"begin {call['name']}", call["rest"]
        elif call:
            yield call["name"], call["rest"]


@pytest.mark.skipif(strace_refusal() is not None, reason=str(strace_refusal()))
def test_nothing_is_acknowledged_before_it_is_synced(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", str((tmp_path / "store").resolve())
    calls = "trace=openat,write,pwrite64,fsync,fdatasync"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", SCRIPT, folder]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ran.returncode == 0, ran.stderr.decode()
    unsynced, unnamed, acknowledged, objects, pieces = set(), set(), 0, 0, 0
    for name, rest in completed_calls(trace.read_text()):
        if "ACKNOWLEDGED" in rest:
            if not name.startswith("begin"):
                acknowledged += 1
            left = {path for path in unsynced | unnamed if "/repos/" in path}
            left = {path for path in left if not path.endswith(("zarr.json", "/applied"))}  # disposable
            assert left == set(), f"acknowledgement {acknowledged} came before these were synced"
            continue
        paths = [path for path in _PATH.findall(rest) if path.startswith(folder)]
        if name == "openat" and "O_CREAT" in rest and "O_EXCL" in rest and paths and "zarr.json" not in rest:
            objects += 1
            unnamed.add(paths[-1].rpartition("/")[0])
        elif name in {"write", "pwrite64", "begin write", "begin pwrite64"} and paths:
            unsynced.add(paths[0])
            pieces += "/rewrites/" in paths[0] and not name.startswith("begin")
        elif name in {"fsync", "fdatasync"} and paths:
            unsynced.discard(paths[0])
            unnamed.discard(paths[0])
    assert acknowledged == 4
    assert objects >= 17  # chunks, a pack, and chunks again under their Zarr keys
    assert pieces == 16


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs posix_fadvise and /proc")


@on_linux
@pytest.mark.parametrize(("durability", "expected"), [("full", 8), ("fast", 0)])
def test_memory_is_not_spent_on_what_was_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, expected: int
) -> None:
    settings = Settings.load(env={}, overrides={"storage.durability": durability})
    forgotten: list[str] = []

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        """Remember a file that is not being written, once for each block of a stretch."""
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            forgotten.extend([os.readlink(f"/proc/self/fd/{fd}")] * (length // BLOCK or 1))

    monkeypatch.setattr(os, "posix_fadvise", note)
    monkeypatch.setattr(writing, "_REST_S", 0.05)
    new_store(tmp_path / "store", settings)
    assert forgotten == []
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        for value, place in ((2, "/0/c/"), (3, "/rewrites/")):
            write(gray(catalog), value)
            deadline = time.monotonic() + (60 if expected else 0.2)
            while len(forgotten) < expected and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(forgotten) == expected
            assert all(place in path for path in forgotten)
            assert (gray(catalog).read(BOX) == value).all()
            forgotten.clear()


@on_linux
@pytest.mark.parametrize(("durability", "expected"), [("full", 8), ("fast", 0)])
def test_what_will_be_synced_begins_to_go_to_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, expected: int
) -> None:
    settings = Settings.load(env={}, overrides={"storage.durability": durability})
    begun: list[str] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: begun.append(os.readlink(f"/proc/self/fd/{fd}")))
    new_store(tmp_path / "store", settings)
    assert len(begun) == expected
    assert all("/0/c/" in path for path in begun)


# --- full disks and broken disks -------------------------------------------------------------------------------


class FaultyOS:
    """The module `os`, whose n-th call of one function fails; later calls of it too if `sticky`."""

    def __init__(
        self, name: str, after: int, number: int, *, only: Callable[..., bool], sticky: bool = False
    ) -> None:
        self._name, self._left, self._number = name, after, number
        self._only, self._sticky = only, sticky
        self.hits = 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name != self._name:
            return real

        def call(*args: object, **options: object) -> object:
            if self._only(*args):
                self._left -= 1
                if self._left == -1 or (self._sticky and self._left < 0):
                    self.hits += 1
                    raise OSError(self._number, os.strerror(self._number))
            return real(*args, **options)

        return call


@contextmanager
def fault(
    name: str, after: int, number: int, only: Callable[..., bool] = lambda *_: True, *, sticky: bool = False
) -> Iterator[FaultyOS]:
    faulty = FaultyOS(name, after, number, only=only, sticky=sticky)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "os", faulty)
        patch.setattr(openfiles, "os", faulty)
        yield faulty


def creates(*args: object) -> bool:
    return len(args) > 1 and bool(int(args[1]) & os.O_CREAT)  # type: ignore[call-overload]


CALLS = [
    ("open", creates),
    ("write", None),
    ("pwrite", None),
    ("fsync", None),
    ("fdatasync", None),
    ("makedirs", None),
]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize(("name", "only"), CALLS, ids=[name for name, _ in CALLS])
def test_each_call_that_fails_refuses_the_whole_request(
    tmp_path: Path, name: str, only: Callable[..., bool] | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "SEGMENT_SIZE", 2000)
    new_store(tmp_path / "store", FULL)
    box = Box((0, 0, 0), (12, 8, 8))
    shown, after, hit = 1, 0, True
    while hit:
        hit = False
        with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
            view = gray(catalog)
            view.read(BOX)
            for value in (after * 3 + 2, after * 3 + 3):
                with fault(name, after, number, *((only,) if only else ())) as faulty:
                    try:
                        write(view, value, box)
                        shown = value
                    except StorageError as error:
                        refused = error
                    else:
                        refused = None
                if number == errno.ENOSPC and "sync" not in name:
                    assert refused is None or isinstance(refused, NoSpaceError)
                assert refused is None or faulty.hits or "until restart" in str(refused)
                hit = hit or bool(faulty.hits)
                assert (view.read(BOX) == shown).all()
            if number == errno.ENOSPC and "sync" not in name:
                write(view, value, box)  # there is space again
                shown = value
        with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
            found = np.unique(gray(catalog).read(BOX))
            assert len(found) == 1
            assert found[0] == shown or (name == "fdatasync" and found[0] in {after * 3 + 2, after * 3 + 3})
            shown = int(found[0])
            assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []
        after += 1
    assert after > (1 if name != "makedirs" else 0)


def test_a_folder_is_relied_on_only_once_its_ancestors_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = local.LocalBackend(tmp_path)
    sync_path = local.sync_path
    synced: list[str] = []

    def second_request(path: str, key: str, flags: int) -> None:
        """Come in while the first request is about to sync the name of `a/b`."""
        if key == "a":
            monkeypatch.setattr(local, "sync_path", noting)
            backend.create("a/b/c/two", b"2", sync=True)
            backend.sync(["a/b/c/two"])
        sync_path(path, key, flags)

    def noting(path: str, key: str, flags: int) -> None:
        synced.append(key)
        sync_path(path, key, flags)

    backend.create("a/b/c/one", b"1", sync=True)
    monkeypatch.setattr(local, "sync_path", second_request)
    backend.sync(["a/b/c/one"])
    assert {"a/b/c", "a/b", "a", ""} <= set(synced)


def is_log(fd: int) -> bool:
    return "/log/" in os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_pack_that_cannot_be_synced_is_given_up(tmp_path: Path, number: int) -> None:
    new_store(tmp_path / "store", FULL)
    with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
        view = gray(catalog)
        write(view, 2)
        with fault("fdatasync", 0, number, lambda fd: not is_log(fd)) as faulty, pytest.raises(StorageError):
            write(view, 3)
        assert faulty.hits == 1
        assert (view.read(BOX) == 2).all()
        write(view, 4)
        assert len(list((tmp_path / "store").rglob("rewrites/*/*"))) == 2
    with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
        assert (gray(catalog).read(BOX) == 4).all()
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_log_that_cannot_be_synced_takes_no_writes_until_restart(tmp_path: Path, number: int) -> None:
    new_store(tmp_path / "store", FULL, "gray", "other")
    with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
        view = gray(catalog)
        view.read(BOX)
        write(gray(catalog, "other"), 2)
        with fault("fdatasync", 0, number, is_log), pytest.raises(StorageError):
            write(view, 3)
        for _ in range(2):
            with pytest.raises(StorageError, match="until restart"):
                write(view, 4)
        assert (view.read(BOX) == 1).all()
        write(gray(catalog, "other"), 5)
    with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
        assert np.unique(gray(catalog).read(BOX)).tolist() in ([1], [3])
        write(gray(catalog), 6)
        assert (gray(catalog).read(BOX) == 6).all()
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_documents_on_a_full_disk(tmp_path: Path) -> None:
    new_store(tmp_path / "store", FULL)
    with dvidzarr.open(tmp_path / "store", "w", FULL) as catalog:
        view = gray(catalog)

        put(view, b"old")
        for name in ("write", "pwrite"):
            for size in (10, 100_000):
                with fault(name, 0, errno.ENOSPC) as faulty:
                    try:
                        put(view, b"n" * size)
                        assert not faulty.hits
                        put(view, b"old")
                    except NoSpaceError:
                        assert faulty.hits
                assert get_document(view.instance.dataset, b"key", view.lineage()) == b"old"


def test_objects_that_cannot_be_synced_stop_the_instance(tmp_path: Path) -> None:
    """They were acknowledged: a later sync that seems to work would not bring them to the disk."""
    new_store(tmp_path / "store", FAST)
    with dvidzarr.open(tmp_path / "store", "w", FAST) as catalog:
        view = gray(catalog)
        write(view, 2)
        repo = catalog.repos[0]
        with fault("fsync", 0, errno.EIO), pytest.raises(StorageError):
            repo.commit(repo.dag.root)
        assert not repo.dag.root.locked
        with pytest.raises(StorageError, match="until restart"):
            write(view, 3)
        with pytest.raises(StorageError):
            repo.commit(repo.dag.root)
    with dvidzarr.open(tmp_path / "store", "w", FAST) as catalog:
        assert np.unique(gray(catalog).read(BOX)).tolist() == [2]


@pytest.mark.parametrize("kind", ["chunks", "blob"])
def test_a_flush_does_not_stumble_over_what_a_refused_request_takes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A disk that is full for a moment must not end the writing."""
    new_store(tmp_path / "store", FAST)
    with dvidzarr.open(tmp_path / "store", "w", FAST) as catalog:
        view = gray(catalog)
        dataset, backend, far = view.instance.dataset, catalog.context.backend, Box((8, 8, 8), (16, 16, 16))
        refused, going_on = threading.Event(), threading.Event()
        append_all, sync = dataset.append_all, backend.sync

        def full(records: Sequence[Any]) -> Position:
            if records[0][0] != Kind.CHUNKS:
                return append_all(records)
            refused.set()
            assert going_on.wait(60)
            raise NoSpaceError("full")

        def request() -> None:
            if kind == "chunks":
                with pytest.raises(NoSpaceError):
                    write(view, 2, far)
                return
            blob = write_blob(dataset, b"blob")
            refused.set()
            assert going_on.wait(60)
            remove_blob(dataset, blob)

        def late_sync(keys: Sequence[str], *, contents: bool = False, run_all: RunAll = in_turn) -> None:
            going_on.set()
            time.sleep(0.5)
            sync(keys, contents=contents, run_all=run_all)

        monkeypatch.setattr(dataset, "append_all", full)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(request)
            assert refused.wait(60)
            monkeypatch.setattr(backend, "sync", late_sync)
            flush(dataset)
            running.result()
        monkeypatch.undo()
        write(view, 3)
        assert (view.read(BOX) == 3).all()
        assert (view.read(far) == 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_is_given_back_once_a_checkpoint_could_not_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was applied, but a power loss may take it, and with it the requests that superseded the pieces."""
    new_store(tmp_path / "store", FAST)
    with dvidzarr.open(tmp_path / "store", "w", FAST) as catalog:
        write(gray(catalog), 2)
    with dvidzarr.open(tmp_path / "store", "w", settings_for("fast", 0.3)) as catalog:
        view = gray(catalog)
        assert (view.read(BOX) == 2).all()
        assert catalog.context.housekeeper.settle()
        discarded: list[object] = []
        monkeypatch.setattr(catalog.context.backend, "discard", discarded.extend)
        dataset = view.instance.dataset
        with fault("fdatasync", 1, errno.EIO, is_log) as faulty:
            write(view, 3)
            deadline = time.monotonic() + 60
            while not faulty.hits and time.monotonic() < deadline:
                time.sleep(0.01)
        assert faulty.hits == 1
        time.sleep(1.5)
        assert discarded == []
        assert (dataset.data_id, "superseded") not in {
            name[:2] for name in catalog.context.housekeeper.waiting if isinstance(name, tuple)
        }
        monkeypatch.undo()


def test_finishing_a_version_does_not_hold_up_the_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying the chunks of a large version takes minutes; what is written meanwhile is promised within seconds."""
    settings = settings_for("fast", 0.05)
    new_store(tmp_path / "store", settings)
    copying, going_on = threading.Event(), threading.Event()
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        backend, repo = catalog.context.backend, catalog.repos[0]
        replace = backend.replace

        def slow_replace(key: str, data: bytes) -> None:
            if "/0/c/" in key:
                copying.set()
                assert going_on.wait(60)
            replace(key, data)

        monkeypatch.setattr(backend, "replace", slow_replace)
        write(gray(catalog), 2)
        repo.commit(repo.dag.root)
        child = repo.new_version(repo.dag.root)
        try:
            assert copying.wait(60)
            write(gray(catalog), 3)
            dataset = repo.instance("gray").dataset
            written = dataset.log.tail.sequence
            deadline = time.monotonic() + 30
            while dataset.flushed < written and time.monotonic() < deadline:
                time.sleep(0.01)
            assert dataset.flushed >= written
            assert repo.dag.root.ordinal not in dataset.finished
        finally:
            going_on.set()
        assert catalog.context.housekeeper.settle(60)
        assert repo.dag.root.ordinal in dataset.finished
        assert (repo.instance("gray").at(child).read(BOX) == 3).all()
