"""Values that look like records: somebody stores a log, frame by frame valid, as a value in that very log.

Recovery looks for frames behind damage and behind a torn tail. What lies inside a value is none, whatever it says. (Only
frames with later sequences inside the very record that is torn could be taken for some; they need the segment's random
salt, which nobody sees who cannot read the files of the store.)
"""

import shutil
import struct
from pathlib import Path

import pytest

import dvidzarr
from dvidzarr.core.errors import StorageError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.view import View
from dvidzarr.storage.frames import HEADER_SIZE, Kind, SegmentHeader, encode_frame, encode_record
from dvidzarr.storage.writing import get_document
from tests.integration.damaged_store import flip
from tests.integration.gray_store import put

FULL = Settings.load(env={}, overrides={"compute.threads": 1})


def view_of(catalog: Catalog) -> View:
    return catalog.repos[0].instance("notes").at()


def get(view: View, key: bytes) -> bytes | None:
    return get_document(view.instance.dataset, key, view.lineage())


def forged_frame(log: bytes, sequence: int, version: str) -> bytes:
    """Return a frame that is valid in a log at a sequence, as somebody may make it who has read the log's header."""
    header = SegmentHeader.unpack(log[:HEADER_SIZE])
    assert header is not None
    about = {"t": 0.0, "u": "mallory", "a": "", "v": version, "k": 5}
    return encode_frame(sequence, [encode_record(Kind.DELETE, about, b"first")], header.salt)


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, Path, list[int]]:
    """Make a store whose log holds itself and forged frames; return it, the log, and where records end."""
    folder, ends = tmp_path / "store", []
    with dvidzarr.open(folder, "w", FULL) as catalog:
        repo = catalog.create_repo("forged")
        repo.create_instance("keyvalue", "notes")
        view = view_of(catalog)
        log = folder / view.instance.prefix / "log/00000001.log"

        def note(key: bytes, value: bytes) -> None:
            put(view, key=key, value=value)
            ends.append(view.instance.dataset.log.cursor.offset)

        note(b"first", b"one")
        note(b"second", b"two")
        note(b"copy", log.read_bytes()[: ends[-1]])
        note(b"third", b"three")
        sequence = view.instance.dataset.log.tail.sequence
        frames = [forged_frame(log.read_bytes(), n, repo.dag.root.id) for n in range(1, sequence + 8)]
        note(b"forged", b"".join(frames))
        note(b"last", b"end")
    shutil.rmtree(folder / "cache")
    return folder, log, ends


def test_they_are_read_back_and_mean_nothing(store: tuple[Path, Path, list[int]]) -> None:
    folder, log, _ = store
    for mode in ("r", "w"):
        with dvidzarr.open(folder, mode, FULL) as catalog:
            view = view_of(catalog)
            copy = get(view, b"copy")
            assert copy is not None
            assert log.read_bytes().startswith(copy)
            assert get(view, b"first") == b"one"
            assert get(view, b"last") == b"end"
            assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_a_record_torn_inside_such_a_value_is_dropped(store: tuple[Path, Path, list[int]]) -> None:
    folder, log, ends = store
    data, word = log.read_bytes(), log.with_name("applied")
    start, stop = ends[1], ends[2]  # the record of the copy: its frames are older than what comes next
    for cut in range(start + 1, stop, 7):
        log.write_bytes(data[:cut])
        word.unlink(missing_ok=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with dvidzarr.open(folder, "w", FULL) as catalog:
            view = view_of(catalog)
            assert [get(view, key) for key in (b"first", b"second", b"copy")] == [b"one", b"two", None]
            put(view, key=b"copy", value=b"written anew")
        with dvidzarr.open(folder, "r", FULL) as catalog:
            assert get(view_of(catalog), b"copy") == b"written anew"


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_damage_before_them_is_damage(store: tuple[Path, Path, list[int]], index: int) -> None:
    """The record behind the damage is the next real one, which comes before all that a later value holds."""
    folder, log, ends = store
    flip(log, ends[index] - 1)
    with dvidzarr.open(folder, "w", FULL) as catalog:
        view = view_of(catalog)
        (damage,) = view.instance.dataset.log.damage
        assert damage.before == damage.after + 2
        with pytest.raises(StorageError, match="lost"):
            get(view, b"first")
    with dvidzarr.open(folder, "a", FULL) as catalog:
        assert any(f.repaired for f in catalog.verify(repair=True))
    with dvidzarr.open(folder, "w", FULL) as catalog:
        view = view_of(catalog)
        keys = [b"first", b"second", b"copy", b"third", b"forged", b"last"]
        lost = keys[index]
        assert [key for key in keys if get(view, key) is None] == [lost]
        put(view, key=b"after", value=struct.pack("<Q", 7))
        assert get(view, b"after") == struct.pack("<Q", 7)
