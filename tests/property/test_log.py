"""The log: what was appended is replayed, torn tails go, damage is seen and never skipped in silence."""

import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvidzarr.core.errors import BusyError, CorruptionError, NoSpaceError, StorageError
from dvidzarr.storage import log as module
from dvidzarr.storage import segmentfile
from dvidzarr.storage.frames import HEADER_SIZE, Entry
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.log import LocalLog
from dvidzarr.storage.openfiles import AppendFile

IDS = ("ab" * 16, "cd" * 16)
Value = tuple[int, bytes]
values = st.lists(st.tuples(st.integers(100, 999), st.binary(max_size=60)), min_size=1, max_size=12)


class Replayed:
    """A log and what it applied. A test may open thousands: `close_all` gives their files back."""

    opened: ClassVar[list[LocalLog]] = []

    def __init__(self, folder: Path, ids: tuple[str, str] = IDS) -> None:
        self.entries: list[tuple[int, int, bytes]] = []
        self.log = LocalLog(LocalBackend(folder), "log", ids, self.apply)
        self.opened.append(self.log)

    @classmethod
    def close_all(cls) -> None:
        while cls.opened:
            cls.opened.pop().close()

    def apply(self, entry: Entry) -> None:
        self.entries.append((entry.sequence, entry.kind, bytes(entry.payload)))

    @classmethod
    def recovered(cls, folder: Path) -> "Replayed":
        replayed = cls(folder)
        replayed.log.recover()
        return replayed


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_SIZE", 260)
        patch.setattr(segmentfile, "AHEAD_LEAST", 30)
        patch.setattr(segmentfile, "AHEAD_MOST", 100)
        patch.setattr(segmentfile, "_FRAMES_AHEAD", 0)
        yield


@contextmanager
def written(
    records: list[Value], *, killed: bool = False
) -> Iterator[tuple[Path, list[tuple[int, int, bytes]]]]:
    """Give a folder with a log of these records, one frame each; `killed`: with the zeros that closing cuts off."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        folder = Path(name) / "store"
        first = Replayed.recovered(folder)
        for kind, payload in records:
            first.log.append(kind, {"x": 1}, payload)
        if killed:
            shutil.copytree(folder, folder.with_name("as killed"))
        first.log.close()
        if killed:
            folder = folder.with_name("as killed")
            for path in segments(folder)[:-1]:  # it may have died before it cut them
                os.truncate(path, path.stat().st_size + 50)
        try:
            yield folder, first.entries
        finally:
            Replayed.close_all()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "log").glob("*.log"))


@given(values, st.booleans())
def test_replay_is_what_was_appended(records: list[Value], killed: bool) -> None:
    with written(records, killed=killed) as (folder, entries):
        assert [(kind, payload) for _, kind, payload in entries] == records
        again = Replayed.recovered(folder)
        assert again.entries == entries
        assert not again.log.damage
        assert again.log.dropped == 0
        assert [e.sequence for e in again.log.records()] == list(range(1, len(records) + 1))
        again.log.append(5, {}, b"more")
        again.log.close()
        assert Replayed.recovered(folder).entries == [*entries, (len(records) + 1, 5, b"more")]


@given(values, st.booleans(), st.data())
def test_records_behind_one_are_read_without_those_before(
    records: list[Value], killed: bool, data: st.DataObject
) -> None:
    with written(records, killed=killed) as (folder, _):
        log = Replayed.recovered(folder).log
        whole = list(log.records())
        for after in range(len(records) + 1):
            assert list(log.records(after=after)) == whole[after:]
        firsts = [entry.sequence for entry in whole if entry.segment != whole[entry.sequence - 2].segment]
        if len(firsts) > 1:
            first = data.draw(st.sampled_from(firsts[1:]))
            for segment in segments(folder)[: whole[first - 1].segment - 1]:
                segment.unlink()
            assert list(log.records(after=first - 1)) == whole[first - 1 :]


@given(values, st.booleans(), st.booleans(), st.data())
def test_cut_at_any_byte_the_whole_frames_stay(
    records: list[Value], killed: bool, zeros: bool, data: st.DataObject
) -> None:
    """Without the word of what was acknowledged (lost with the power), the end is a torn tail, maybe among zeros."""
    with written(records, killed=killed) as (folder, entries):
        (folder / "log/applied").unlink()
        last = segments(folder)[-1]
        size = last.stat().st_size
        cut = data.draw(st.integers(HEADER_SIZE if zeros else 0, size))
        os.truncate(last, cut)
        os.truncate(last, size if zeros else cut)
        again = Replayed.recovered(folder)
        kept = len(again.entries)
        assert again.entries == entries[:kept]
        assert not again.log.damage
        again.log.append(7, {}, b"after")
        again.log.close()
        assert Replayed.recovered(folder).entries == [*entries[:kept], (kept + 1, 7, b"after")]


@given(values, st.data())
def test_what_was_acknowledged_is_missed(records: list[Value], data: st.DataObject) -> None:
    with written(records) as (folder, entries):
        last = segments(folder)[-1]
        os.truncate(last, data.draw(st.integers(0, last.stat().st_size - 1)))
        again = Replayed.recovered(folder)
        assert again.log.damage
        assert again.entries == entries[: again.log.damage[0].after]
        with pytest.raises(BusyError, match="repair"):
            again.log.append(7, {}, b"after")


@settings(max_examples=100)
@given(values, st.booleans(), st.booleans(), st.data())
def test_any_changed_byte_is_damage_or_a_torn_last_frame(
    records: list[Value], keep_word: bool, killed: bool, data: st.DataObject
) -> None:
    """What is applied is always what was appended, in order; if something is missing, it is either the tail or damage."""
    with written(records, killed=killed) as (folder, entries):
        if not keep_word:
            (folder / "log/applied").unlink()
        number = data.draw(st.integers(0, len(segments(folder)) - 1))
        path = segments(folder)[number]
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        again = Replayed(folder)
        try:
            again.log.recover()
        except CorruptionError:
            assert (
                at < HEADER_SIZE
            )  # a header that is whole, but names another log: 32 bits would have to collide
            return
        assert set(again.entries) <= set(entries)
        assert [e[0] for e in again.entries] == sorted(e[0] for e in again.entries)
        missing = sorted({e[0] for e in entries} - {e[0] for e in again.entries})
        if killed and not missing:  # among the zeros
            assert not again.log.damage
        elif not again.log.damage:
            assert not keep_word
            assert missing == list(range(len(entries) - len(missing) + 1, len(entries) + 1))
            assert number == len(segments(folder)) - 1 or number >= len(segments(folder))
            assert len(missing) == 1 or at < HEADER_SIZE
        else:
            ranges = [range(d.after + 1, d.before or len(entries) + 1) for d in again.log.damage]
            assert missing == [sequence for lost in ranges for sequence in lost]
            assert len(missing) == 1 or at < HEADER_SIZE, "intact records were given up"


def test_every_byte_of_every_segment() -> None:
    """Exhaustive on one log: a changed byte before the last frame is never taken for a torn tail."""
    chance = random.Random(5)
    records = [(100 + n, chance.randbytes(30)) for n in range(9)]
    with written(records) as (folder, entries):
        (folder / "log/applied").unlink()
        originals = {path: path.read_bytes() for path in segments(folder)}
        assert len(originals) > 2
        for path, raw in originals.items():
            for at in range(len(raw)):
                for other, content in originals.items():
                    other.write_bytes(content)
                path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
                again = Replayed.recovered(folder)
                Replayed.close_all()
                (folder / "log/applied").unlink()
                lost = {e[0] for e in entries} - {e[0] for e in again.entries}
                assert again.log.damage or lost <= {8, 9}, (path, at, lost)
                assert again.log.damage or path == max(originals)


@given(values, st.integers(0, 11), st.data())
def test_a_missing_segment_is_damage(records: list[Value], number: int, data: st.DataObject) -> None:
    with written(records) as (folder, entries):
        if data.draw(st.booleans()):
            (folder / "log/applied").unlink()
        paths = segments(folder)
        path = paths[number % len(paths)]
        path.unlink()
        again = Replayed.recovered(folder)
        if not again.log.damage:  # only the end is gone, and nobody knows that it was acknowledged
            assert path == paths[-1]
            assert not (folder / "log/applied").exists() or len(again.entries) < len(entries)
        assert set(again.entries) <= set(entries)


def test_a_log_of_another_store_is_refused() -> None:
    with written([(100, b"x")]) as (folder, _):
        for ids in (("00" * 16, IDS[1]), (IDS[0], "00" * 16)):
            with pytest.raises(CorruptionError, match="another log"):
                Replayed(folder, ids).log.recover()


@given(values, st.integers(1, 12))
def test_a_follower_reads_what_is_published(records: list[Value], often: int) -> None:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        writer, follower = Replayed.recovered(Path(name)), Replayed(Path(name))
        for number, (kind, payload) in enumerate(records):
            writer.log.append(kind, {}, payload)
            if number % often == 0:
                follower.log.follow()
                assert follower.entries == writer.entries
        follower.log.follow()
        assert follower.entries == writer.entries
        follower.log.close()
        writer.log.close()


def test_zeros_are_written_ahead_and_cut_off(tmp_path: Path) -> None:
    """Most frames leave the length of their file as it is; closed files and all but the last segment end with a frame."""
    writer, lengths = Replayed.recovered(tmp_path), []
    for number in range(40):
        writer.log.append(100, {}, b"%d" % number)
        lengths.append((segments(tmp_path)[-1], segments(tmp_path)[-1].stat().st_size))
    assert len(set(lengths)) < 20
    for path in segments(tmp_path)[:-1]:
        assert path.read_bytes()[-1]
    writer.log.close()
    assert segments(tmp_path)[-1].read_bytes()[-1]
    assert Replayed.recovered(tmp_path).entries == writer.entries


@pytest.mark.parametrize("end", ["closed", "demoted"])
def test_nothing_that_was_acknowledged_is_cut_off_with_the_zeros(tmp_path: Path, end: str) -> None:
    first = Replayed.recovered(tmp_path)
    first.log.append(100, {}, bytes(40))  # ends with zeros itself
    first.log.close() if end == "closed" else first.log.demote()
    (path,) = segments(tmp_path)
    assert path.stat().st_size < HEADER_SIZE + 100
    assert Replayed.recovered(tmp_path).entries == [(1, 100, bytes(40))]


def test_a_torn_record_among_zeros_is_dropped_and_never_comes_back(tmp_path: Path) -> None:
    """What lay behind it must not follow the record that is put in its place."""
    first = Replayed.recovered(tmp_path / "one")
    first.log.append(100, {}, b"one")
    end = segments(tmp_path / "one")[0].read_bytes().rstrip(b"\0")
    first.log.append(101, {}, b"two")
    first.log.append(102, {}, b"three")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first.log.close()
    (path,) = segments(tmp_path / "two")
    data = bytearray(path.read_bytes())
    data[len(end) + 30] ^= 1  # the second frame
    path.write_bytes(data)
    (tmp_path / "two/log/applied").unlink()
    damaged = Replayed.recovered(tmp_path / "two")  # a valid frame follows: no torn tail
    assert damaged.log.damage
    data[len(end) + 60 :] = bytes(len(data) - len(end) - 60)
    path.write_bytes(data)
    again = Replayed.recovered(tmp_path / "two")
    assert again.entries == [(1, 100, b"one")]
    assert not again.log.damage
    assert 0 < again.log.dropped <= 60
    again.log.append(103, {}, b"xxx")
    assert [e.kind for e in again.log.records()] == [100, 103]


def test_a_follower_reads_little_of_the_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AHEAD_LEAST", 1 << 20), ("AHEAD_MOST", 1 << 20)):
        monkeypatch.setattr(segmentfile, name, value)
    monkeypatch.setattr(module, "SEGMENT_SIZE", 64 << 20)
    writer, follower, read = Replayed.recovered(tmp_path), Replayed(tmp_path), []
    read_into = LocalBackend.read_into

    def counted(backend: LocalBackend, key: str, buffer: memoryview, offset: int = 0) -> int | None:
        read.append(len(buffer))
        return read_into(backend, key, buffer, offset)

    monkeypatch.setattr(LocalBackend, "read_into", counted)
    for number in range(20):
        writer.log.append(100, {}, bytes(100_000 if number == 10 else 10))
        follower.log.follow()
        assert follower.entries == writer.entries
    assert segments(tmp_path)[0].stat().st_size > 1 << 20
    assert 100_000 < sum(read) < 600_000
    writer.log.close()
    follower.log.close()


@pytest.mark.parametrize("end", [LocalLog.close, LocalLog.demote])
def test_zeros_that_are_cut_off_while_a_follower_reads_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[LocalLog], None]
) -> None:
    writer, follower = Replayed.recovered(tmp_path), Replayed(tmp_path)
    writer.log.append(100, {}, b"one")
    follower.log.follow()
    writer.log.append(101, {}, b"two")
    size = LocalBackend.size

    def cut_meanwhile(backend: LocalBackend, key: str) -> int | None:
        before = size(backend, key)
        end(writer.log)
        return before

    monkeypatch.setattr(LocalBackend, "size", cut_meanwhile)
    follower.log.follow()
    assert follower.entries == writer.entries
    follower.log.close()


@pytest.mark.parametrize("room", [0, 10, 500])
def test_a_disk_that_is_nearly_full_takes_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """The room for zeros is missing, that for a frame is there; what was written of them is given back."""
    first = Replayed.recovered(tmp_path)
    write_at = AppendFile.write_at

    def nearly_full(file: AppendFile, offset: int, data: bytes) -> None:
        """Write as much as there is room for."""
        write_at(file, offset, data[: 100 + room])
        if len(data) > 100 + room:
            raise NoSpaceError("full")

    monkeypatch.setattr(segmentfile, "AHEAD_LEAST", 1000)
    monkeypatch.setattr(segmentfile, "AHEAD_MOST", 1000)
    monkeypatch.setattr(module, "SEGMENT_SIZE", 4000)
    monkeypatch.setattr(AppendFile, "write_at", nearly_full)
    for number in range(3):
        first.log.append(100, {}, b"%d" % number)
        assert segments(tmp_path)[0].stat().st_size == first.log.cursor.offset
    with pytest.raises(NoSpaceError):
        first.log.append(101, {}, bytes(100 + room))
    assert segments(tmp_path)[0].stat().st_size == first.log.cursor.offset
    monkeypatch.setattr(AppendFile, "write_at", write_at)
    first.log.append(102, {}, b"room again")
    first.log.close()
    again = Replayed.recovered(tmp_path)
    assert again.entries == first.entries
    assert [kind for _, kind, _ in again.entries] == [100, 100, 100, 102]


@given(values, values)
def test_a_cursor_resumes_only_in_its_own_log(records: list[Value], others: list[Value]) -> None:
    others = [*others[: len(records) - 1], (99, b"another end")]  # real records differ by their times
    with written(records) as (folder, entries), written(others) as (foreign, _):
        first = Replayed.recovered(folder)
        cursor = first.log.cursor
        first.log.append(5, {}, b"new")
        first.log.close()
        again = Replayed(folder)
        assert again.log.resume(cursor)
        again.log.recover()
        assert again.entries == [(len(entries) + 1, 5, b"new")]
        stranger = Replayed(foreign)
        assert not stranger.log.resume(cursor)


def run_all(tasks: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_group_commit_keeps_every_record_once(tmp_path: Path) -> None:
    log = Replayed.recovered(tmp_path)
    positions: list[int] = []

    def append(name: int) -> None:
        positions.extend(log.log.append(9, {}, b"%d-%d" % (name, n)).sequence for n in range(50))

    run_all([lambda name=name: append(name) for name in range(8)])  # type: ignore[misc]
    assert sorted(positions) == list(range(1, 401))
    log.log.close()
    again = Replayed.recovered(tmp_path)
    assert again.entries == log.entries
    assert len({payload for _, _, payload in again.entries}) == 400


@pytest.mark.parametrize("error", [NoSpaceError("full"), BusyError("busy"), ValueError("wrong")])
def test_a_durable_record_that_cannot_be_applied_stops_the_log(tmp_path: Path, error: Exception) -> None:
    """Who wrote it must not take it for one that is not there, and no other record gets its number."""
    first = Replayed.recovered(tmp_path)
    first.log.append(100, {}, b"before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first.log, "_apply", lambda _: (_ for _ in ()).throw(error))
        with pytest.raises(StorageError) as raised:
            first.log.append(101, {}, b"durable")
    assert type(raised.value) is StorageError
    assert raised.value.__cause__ is error
    with pytest.raises(StorageError, match="until restart"):
        first.log.append(102, {}, b"refused")
    first.log.close()
    again = Replayed.recovered(tmp_path)
    assert again.entries == [(1, 100, b"before"), (2, 101, b"durable")]
    assert not again.log.damage
    again.log.close()


def test_only_a_recovered_log_takes_records(tmp_path: Path) -> None:
    """One that is followed, again or still, begins no segment behind the back of whoever writes."""
    writer, other = Replayed.recovered(tmp_path), Replayed(tmp_path)
    writer.log.append(100, {}, b"one")
    with pytest.raises(StorageError, match="not open for appending"):
        other.log.append(101, {}, b"no")
    writer.log.demote()
    with pytest.raises(StorageError, match="not open for appending"):
        writer.log.append(101, {}, b"no")
    other.log.recover()
    other.log.append(102, {}, b"two")
    writer.log.follow()
    assert writer.entries == other.entries == [(1, 100, b"one"), (2, 102, b"two")]
    writer.log.recover()
    writer.log.append(103, {}, b"three")
    writer.log.close()
    other.log.close()
    assert [entry[0] for entry in writer.entries] == [1, 2, 3]
