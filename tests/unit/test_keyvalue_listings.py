"""The cached key lists against a set, and what spoils them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage import listings
from dvidzarr.storage.listings import KeyList, KeyLists

keys = st.binary(min_size=1, max_size=2)


@given(st.lists(st.lists(st.tuples(keys, st.booleans()), max_size=90), max_size=6), keys, keys)
def test_a_list_is_a_sorted_set(rounds: list[list[tuple[bytes, bool]]], first: bytes, last: bytes) -> None:
    known: set[bytes] = set()
    made = KeyList(Lineage.root(0))
    for changes in rounds:
        for key, there in changes:
            made.changed[key] = there
            (known.add if there else known.discard)(key)
        assert made.between(b"", None) == sorted(known)
        assert made.between(first, last) == sorted(key for key in known if first <= key <= last)


def test_what_is_written_while_a_list_is_made_counts() -> None:
    lists = KeyLists()
    made = lists.begin(Lineage.root(0))
    lists.note(b"new", 0, there=True)
    lists.note(b"old", 0, there=False)
    lists.keep(made, [b"kept", b"old"])
    assert made.between(b"", None) == [b"kept", b"new"]


def test_a_write_to_an_ancestor_drops_the_lists_below_it() -> None:
    lists = KeyLists()
    root = Lineage.root(0)
    child, other = root.child(1), Lineage.root(2)
    for lineage in (root, child, other):
        lists.keep(lists.begin(lineage), [])
    lists.note(b"k", 0, there=True)
    kept = lists.get(0)
    assert kept is not None
    assert kept.between(b"", None) == [b"k"]
    assert lists.get(1) is None
    assert lists.get(2) is not None


def test_lists_are_dropped_when_they_hold_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT_KEYS", 3)
    lists = KeyLists()
    for ordinal in range(3):
        lists.keep(lists.begin(Lineage.root(ordinal)), [b"a", b"b"])
    assert [lists.get(ordinal) is not None for ordinal in range(3)] == [False, False, True]


def test_lists_are_dropped_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT_LISTS", 2)
    lists = KeyLists()
    for ordinal in range(2):
        lists.keep(lists.begin(Lineage.root(ordinal)), [])
    assert lists.get(0) is not None
    lists.keep(lists.begin(Lineage.root(2)), [])
    assert [lists.get(ordinal) is not None for ordinal in range(3)] == [True, False, True]
