"""The index of documents with words and answers in memory: what it shows is what was put last."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import StorageError
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage import documentindex as module
from dvidzarr.storage import keyindex
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.places import DELETED, VALUE, Place
from dvidzarr.storage.recent import KEPT, RecentWords

ROOT = Lineage.root(0)
CHILD = ROOT.child(1)
OTHER = ROOT.child(2)


class Line:
    """Versions without merges."""

    def merges(self, ordinal: int) -> tuple[int, ...]:
        return ()


def value(ordinal: int, sequence: int, text: bytes, state: int = VALUE) -> Place:
    return Place(ordinal, sequence, state, text, 1, 0, len(text), 0)


def shown(index: Documents, key: bytes, lineage: Lineage) -> bytes | None:
    place = index.find(key, lineage)
    assert index.find_now(key, lineage) == (True, place)
    assert index.find_all([key], lineage) == [place]
    return None if place is None else place.value


@pytest.fixture(params=[1, 2, 1000], ids=lambda size: f"pending{size}")
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Documents:
    monkeypatch.setattr(module, "_PENDING", request.param)
    return Documents(str(tmp_path / "index"), Line())  # type: ignore[arg-type]


def test_a_write_is_seen_at_once_by_those_who_asked_before(index: Documents) -> None:
    for number in range(1, 4):
        index.put(b"a", value(0, number, b"%d" % number))
        assert [shown(index, b"a", each) for each in (ROOT, CHILD, OTHER)] == [b"%d" % number] * 3
    index.put(b"a", value(1, 4, b"child"))
    assert [shown(index, b"a", each) for each in (ROOT, CHILD, OTHER)] == [b"3", b"child", b"3"]
    index.put(b"a", value(1, 5, b"", DELETED))
    assert [shown(index, b"a", each) for each in (ROOT, CHILD, OTHER)] == [b"3", None, b"3"]
    assert index.keys(CHILD) == []
    assert index.keys(ROOT) == [b"a"]


def test_a_missing_key_that_was_asked_for_appears(index: Documents) -> None:
    assert shown(index, b"a", CHILD) is None
    index.put(b"a", value(0, 1, b"x"))
    assert shown(index, b"a", CHILD) == b"x"


def test_an_older_word_never_replaces_a_newer_one(index: Documents) -> None:
    index.put(b"a", value(0, 7, b"new"))
    index.put(b"a", value(0, 3, b"old"))
    index.mark("here")
    index.put(b"a", value(0, 3, b"old"))
    index.mark("there")
    assert shown(index, b"a", CHILD) == b"new"


def test_what_is_marked_is_on_the_disk_and_the_rest_is_not(index: Documents, tmp_path: Path) -> None:
    index.put_all((b"%d" % number, value(0, number, b"v")) for number in range(100))
    index.mark("here")
    index.put(b"later", value(0, 200, b"v"))
    index.close()
    with sqlite3.connect(tmp_path / "index") as file:
        assert file.execute("SELECT count(*), max(sequence) FROM rows").fetchone() == (100, 99)
    file.close()


def test_an_index_moves_with_its_pending_words(index: Documents, tmp_path: Path) -> None:
    index.put(b"a", value(0, 1, b"x"))
    assert shown(index, b"b", CHILD) is None
    index.move_to(str(tmp_path / "other"))
    index.put(b"b", value(0, 2, b"y"))
    assert [shown(index, key, CHILD) for key in (b"a", b"b")] == [b"x", b"y"]
    assert index.all_rows() == [(b"a", value(0, 1, b"x")), (b"b", value(0, 2, b"y"))]
    index.mark("here")
    index.close()
    with sqlite3.connect(tmp_path / "other") as file:
        assert file.execute("SELECT count(*) FROM rows").fetchone() == (2,)
    file.close()


def test_an_index_stays_where_it_is_if_it_cannot_move(index: Documents, tmp_path: Path) -> None:
    index.put(b"a", value(0, 1, b"x"))
    with pytest.raises(sqlite3.Error):
        index.move_to(str(tmp_path / "missing" / "other"))
    assert index.keys(CHILD) == [b"a"]


def test_what_is_kept_is_bounded() -> None:
    recent = RecentWords()
    for number in range(KEPT + 100):
        recent.keep(b"%d" % (number // 2), number % 2, value(0, 1, b"x"))
        recent.keep(b"0", 0, None)
        assert recent.answer(b"0", 0) == (None,)
    kept = sum(recent.answer(b"%d" % (number // 2), number % 2) is not None for number in range(KEPT + 100))
    assert KEPT - 2 <= kept <= KEPT
    recent.note(b"0", value(0, 2, b"y"))
    assert recent.answer(b"0", 1) is None
    assert recent.answer(b"0", 0) == (value(0, 2, b"y"),)


words = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2), st.booleans()), max_size=60)


@given(words, st.integers(1, 4), st.integers(0, 60), st.sampled_from([1, 900, 1 << 20]))
def test_a_log_that_is_read_back_shows_the_same(
    written: list[tuple[str, int, bool]], together: int, asked_at: int, gathered: int
) -> None:
    """Records of one or several words, in any order of keys, gathered or not; somebody may ask before the end."""
    plain, loading = (Documents(":memory:", Line(), loading=each) for each in (False, True))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyindex, "_GATHERED", gathered)
        for start in range(0, len(written), together):
            record = [
                (
                    key.encode(),
                    value(ordinal, start + 1, b"%d" % (start + place), VALUE if there else DELETED),
                )
                for place, (key, ordinal, there) in enumerate(written[start : start + together])
            ]
            plain.put_all(record)
            loading.put_all(record)
            if start <= asked_at < start + together:
                assert shown(loading, b"a", CHILD) == shown(plain, b"a", CHILD)
                assert loading.keys(OTHER) == plain.keys(OTHER)
    loading.loaded()
    for lineage in (ROOT, CHILD, OTHER):
        assert loading.keys(lineage) == plain.keys(lineage)
        assert list(loading.range(lineage)) == list(plain.range(lineage))
    assert sorted(loading.all_rows()) == sorted(plain.all_rows())


def test_words_read_back_reach_the_file_with_the_next_mark(tmp_path: Path) -> None:
    index = Documents(str(tmp_path / "index"), Line(), loading=True)  # type: ignore[arg-type]
    index.put_all((b"%d" % number, value(0, 1, b"v")) for number in range(100))
    index.mark("here")
    index.close()
    again = Documents(str(tmp_path / "index"), Line())  # type: ignore[arg-type]
    assert (again.stamp(), len(again.all_rows())) == ("here", 100)
    again.close()


def test_words_are_written_out_by_others_unless_they_do_not_come(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_PENDING", 3)
    monkeypatch.setattr(module, "_MOST_PENDING", 5)
    monkeypatch.setattr(module, "_PORTION", 2)
    index, put_off = Documents(str(tmp_path / "index"), Line()), []  # type: ignore[arg-type,var-annotated]
    index.later = put_off.append

    def pending() -> int:
        return sum(index._recent.is_pending(b"%d" % number) for number in range(20))

    def seen(_: float) -> None:
        steps.append(pending())
        assert [shown(index, b"%d" % number, ROOT) for number in range(9)] == [b"x"] * 9

    counts, steps = [], []  # type: ignore[var-annotated]
    for number in range(6):
        index.put(b"%d" % number, value(0, number + 1, b"x"))
        counts.append((pending(), len(put_off)))
    assert counts == [(1, 0), (2, 0), (3, 1), (4, 2), (0, 2), (1, 2)]
    for number in range(6, 9):
        index.put(b"%d" % number, value(0, number + 1, b"x"))
    monkeypatch.setattr(module, "sleep", seen)
    put_off[0]()
    assert steps == [2, 0]
    assert index.keys(ROOT) == [b"%d" % number for number in range(9)]
    index.put(b"9", value(0, 10, b"x"))
    index.close()
    put_off[0]()  # that comes too late


def test_a_look_up_writes_out_what_it_needs_only(tmp_path: Path) -> None:
    index = Documents(str(tmp_path / "index"), Line())  # type: ignore[arg-type]
    index.put_all((b"%d" % number, value(0, number, b"v")) for number in range(100))
    assert shown(index, b"7", CHILD) == b"v"
    assert index._recent.count == 99
    assert len(index.keys(CHILD)) == 100


class FailingDisk:
    """A connection whose next statement that changes rows fails, and with it, maybe, all since the last mark."""

    def __init__(self, database: sqlite3.Connection, *, takes_back: bool) -> None:
        self._database = database
        self._takes_back = takes_back

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        if statement.startswith("INSERT"):
            if self._takes_back:
                self._database.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")
        return self._database.execute(statement, *values)


@pytest.mark.parametrize("takes_back", [False, True])
def test_an_index_that_could_not_be_written_never_shows_less(tmp_path: Path, takes_back: bool) -> None:
    index, put_off = Documents(str(tmp_path / "index"), Line()), []  # type: ignore[arg-type,var-annotated]
    index.later = put_off.append
    index.put(b"before", value(0, 1, b"x"))
    index.write_out()
    index.put_all((b"%d" % number, value(0, number + 2, b"v")) for number in range(module._PENDING))
    healthy = index._index._db
    index._index._db = FailingDisk(healthy, takes_back=takes_back)  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError):
        put_off.pop()()
    index._index._db = healthy
    if takes_back:
        for use in (
            lambda: index.put(b"more", value(0, 9999, b"x")),
            lambda: shown(index, b"before", CHILD),
            lambda: index.keys(ROOT),
            lambda: index.mark("here"),
        ):
            with pytest.raises(StorageError, match=r"lost rows \(disk I/O error\)"):
                use()
    else:
        index.put(b"more", value(0, 9999, b"x"))
        assert put_off == []  # it is not told of the same failure with each word
        assert len(index.keys(ROOT)) == module._PENDING + 2
    index.close()
    assert Documents(str(tmp_path / "index"), Line()).stamp() == ""  # type: ignore[arg-type]
