"""The simulation has teeth: each rule of the protocol, when it is broken, is missed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dvidzarr.core.errors import DvidzarrError
from dvidzarr.repo import base, instance, overlays
from dvidzarr.storage import durability, finishing, log, logreader, logrecovery, tidying
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.log import LocalLog
from dvidzarr.storage.logreader import LogReader
from dvidzarr.storage.openfiles import AppendFile
from dvidzarr.storage.packs import Pack
from dvidzarr.storage.runs import Row
from dvidzarr.storage.segmentfile import SegmentFile
from tests.simulation.crashes import crash

SEEDS = 1000
"""At most: a rule may be missed by 59 workloads of 60, and what a workload does depends on new ids, too."""

Patches = list[tuple[Any, str, Any]]
_create, _sync, _sync_folder, _append = (
    LocalBackend.create,
    LocalBackend.sync,
    LocalBackend.sync_folder,
    Dataset.append,
)


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _overwrite(backend: LocalBackend, key: str, data: bytes, *, sync: bool, soon: bool = False) -> bool:
    if not _create(backend, key, data, sync=sync):
        file = backend.open_append(key, create=False)
        file.truncate(0)
        file.write_at(0, data)
        file.sync()
        file.close()
    return True


def _never_again(store: ChunkStore, version: int, coords: Sequence[Any]) -> list[None]:
    return [None] * len(coords)


def _none_is_fresh(backend: LocalBackend, folders: Iterable[str]) -> set[str]:
    return set()


def _not_of_logs(backend: LocalBackend, folder: str) -> None:
    if not folder.endswith("/log"):
        _sync_folder(backend, folder)


def _not_of_packs(backend: LocalBackend, folder: str) -> None:
    if "/rewrites/" not in folder:
        _sync_folder(backend, folder)


def _rename_unsynced(backend: LocalBackend, source: str, target: str) -> None:
    with patch.object(backend, "sync_folder", _nothing):
        _rename(backend, source, target)


_rename = LocalBackend._rename


def _packs_first(dataset: Dataset, ordinal: int) -> None:
    folder = f"{dataset.prefix}/rewrites/{dataset.versions.id_of(ordinal)}"
    backend = dataset.context.backend

    def append(*args: Any) -> Any:  # noqa: ANN401 - as it is called
        backend.remove(list(backend.keys(folder)))
        return _append(dataset, *args)

    with patch.object(dataset, "append", append):
        _finish(dataset, ordinal)


def _copy_unsynced(backend: LocalBackend, key: str, data: bytes) -> None:
    with patch.object(backend, "create", lambda key, data, sync: _create(backend, key, data, sync=False)):
        _replace(backend, key, data)


_replace = LocalBackend.replace


def _trusting_tail(log: LocalLog) -> None:
    log._file = SegmentFile(log._backend.open_append(log._key(log._segment), create=False), log._offset)
    log._file.cut(log._offset)
    log._backend.sync_folder(log._prefix)


_open_tail = LocalLog._open_tail


def _trusting_names(log: LocalLog) -> None:
    with patch.object(log._backend, "sync_folder", _nothing):
        _open_tail(log)


def _trusting_length(log: LocalLog) -> None:
    with patch.object(SegmentFile, "cut", _nothing):
        _open_tail(log)
    log._offset = log._backend.size(log._key(log._segment)) or 0


def _leaving_the_rest(log: LocalLog) -> None:
    with patch.object(SegmentFile, "cut", _nothing):
        _open_tail(log)


class _LengthsOnly(SegmentFile):
    """What fits into the file is not synced."""

    _grown = True

    def append(self, end: int, frame: bytes, limit: int) -> None:
        self._grown = end + len(frame) > self._size
        super().append(end, frame, limit)

    def sync(self) -> None:
        if self._grown:
            super().sync()


def _discard_at_once(
    dataset: Dataset, scale: int, ordinal: int, old: list[tuple[int, Row]], *_: object
) -> None:
    store = dataset.arrays[scale]
    dataset.context.backend.discard([store.part(ordinal, (0, 0, 0), row[1], row[4]) for _, row in old])


def _sync_names_only(backend: LocalBackend, keys: Sequence[str], **_: object) -> None:
    _sync(backend, keys)


def _sync_contents_only(backend: LocalBackend, keys: Sequence[str], **_: object) -> None:
    with patch.object(backend, "_sync_folders", _nothing):
        _sync(backend, keys, contents=True)


def _finish_unsynced(dataset: Dataset, ordinal: int) -> None:
    # else a flush on its own thread may come before
    at_once = patch.object(dataset, "later", lambda _name, task, _wait=0: task())
    with patch.object(dataset.log, "flush", _nothing), at_once:
        _finish(dataset, ordinal)


_finish = finishing.finish


def _finish_unflushed(_: overlays.Overlays, dataset: Dataset, ordinal: int) -> None:
    _finish(dataset, ordinal)


def _first_checkpoint_lazily(dataset: Dataset) -> None:
    dataset.log.durable = False
    if dataset.log.unflushed_after is not None:
        durability._void_incomplete(dataset)
    durability._checkpoint(dataset, dataset.log.tail.sequence)


def _believe(data: memoryview, offset: int, expected: int, salt: int) -> int | None:
    end = offset + 8 + int.from_bytes(data[offset : offset + 4], "little")
    return end if offset + 8 < end <= len(data) else None


def _published_whatever(reader: LogReader) -> int | None:
    if reader._word is None:
        if reader._backend.size(f"{reader._prefix}/applied") is None:
            return None
        reader._word = reader._backend.shared_word(f"{reader._prefix}/applied", writable=False)
    return reader._word.value


class _RecordFirst:
    """Objects are synced after the record that names them."""

    def __init__(self) -> None:
        self._late: list[str] = []

    def patches(self) -> Patches:
        """Return what to replace."""

        def sync(backend: LocalBackend, keys: Sequence[str], **_: object) -> None:
            self._late.extend(keys)

        def append(dataset: Dataset, *args: Any) -> Any:  # noqa: ANN401 - as it is called
            position = _append(dataset, *args)
            backend = dataset.context.backend
            late, self._late = self._late, []
            _sync(backend, [key for key in late if backend.size(key) is not None], contents=True)
            return position

        return [
            (LocalBackend, "sync", sync),
            (Dataset, "append", append),
        ]


FULL: dict[str, Callable[[], Patches]] = {
    "objects are not synced": lambda: [(LocalBackend, "sync", _sync_names_only)],
    "folders of objects are not synced": lambda: [(LocalBackend, "sync", _sync_contents_only)],
    "the log is not synced": lambda: [(AppendFile, "sync", _nothing)],
    "the record comes before the objects": lambda: _RecordFirst().patches(),
    "a failed append is not taken back": lambda: [(LocalLog, "_take_back", _nothing)],
    "ancestors of folders are not synced": lambda: [(LocalBackend, "_not_durable", _none_is_fresh)],
    "names of segments are not synced": lambda: [(LocalBackend, "sync_folder", _not_of_logs)],
    "the name of the store is not synced": lambda: [
        (LocalBackend, "make_root", lambda backend: backend.make_folder("repos"))
    ],
    "promoted names are not synced": lambda: [(LocalBackend, "_rename", _rename_unsynced)],
    "packs are not synced": lambda: [(Pack, "sync", _nothing)],
    "names of packs are not synced": lambda: [(LocalBackend, "sync_folder", _not_of_packs)],
    "packs go before the version is finished": lambda: [(overlays, "finish", _packs_first)],
    "copies from packs are not synced": lambda: [(LocalBackend, "replace", _copy_unsynced)],
    "recovery trusts the page cache": lambda: [(LocalLog, "_open_tail", _trusting_tail)],
    "recovery trusts the names that it sees": lambda: [(LocalLog, "_open_tail", _trusting_names)],
    "recovery takes the length of a file for its end": lambda: [(LocalLog, "_open_tail", _trusting_length)],
    "frames that overwrite zeros are not synced": lambda: [
        (log, "SegmentFile", _LengthsOnly),
        (logrecovery, "SegmentFile", _LengthsOnly),
    ],
    "torn frames are believed": lambda: [(logreader, "frame_end", _believe)],
    "a torn shared word is believed": lambda: [(LogReader, "_published", _published_whatever)],
    "chunks are overwritten": lambda: [
        (LocalBackend, "create", _overwrite),
        (ChunkStore, "own", _never_again),
    ],
}

FAST: dict[str, Callable[[], Patches]] = {
    "superseded pieces go at once": lambda: [(Dataset, "_discard_later", _discard_at_once)],
    "requests with lost objects are not voided": lambda: [(durability, "_void_incomplete", _nothing)],
    "what a killed process left is not synced": lambda: [(durability, "_sync_unflushed", _nothing)],
    "rewrites go before the finished record is durable": lambda: [(overlays, "finish", _finish_unsynced)],
    "what was written to locked versions is not flushed": lambda: [
        (base.RepoBase, "_amended", lambda repo, instance: repo.overlays.finish_later(instance)),
        (overlays.Overlays, "_finish_alone", _finish_unflushed),
    ],
    "a flush does not sync the objects": lambda: [(LocalBackend, "sync", _sync_names_only)],
    "leftovers go before what superseded them is durable": lambda: [(tidying, "flush", _nothing)],
    "recovery leaves what lies behind the end": lambda: [(LocalLog, "_open_tail", _leaving_the_rest)],
    "a flush does not sync the log": lambda: [(AppendFile, "sync", _nothing)],
    "the first checkpoint is not durable": lambda: [(instance, "begin", _first_checkpoint_lazily)],
}


@contextmanager
def broken(patches: Patches) -> Iterator[None]:
    with ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(patch.object(target, name, value))
        yield


def misses(variant: Callable[[], Patches], durability_: str, cache_dir: Path) -> str | None:
    """Return the first violation that a broken variant leads to, None if none turns up."""
    for seed in range(SEEDS):
        try:
            with broken(variant()):
                found = crash(durability_, [seed], cache_dir, samples=2, points=0.3).violations
        except DvidzarrError as error:  # without any power loss
            return str(error)
        if found:
            return found[0]
    return None


QUICK = ("the log is not synced", "the record comes before the objects", "a flush does not sync the log")


def _params(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _params(FULL))
def test_full_durability_needs_each_rule(name: str, tmp_path: Path) -> None:
    assert misses(FULL[name], "full", tmp_path) is not None


@pytest.mark.parametrize("name", _params(FAST))
def test_fast_durability_needs_each_rule(name: str, tmp_path: Path) -> None:
    assert misses(FAST[name], "fast", tmp_path) is not None
