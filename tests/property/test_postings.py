"""Look-ups in layers of rows against a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.storage import postings as postings_module
from dvidzarr.storage import runstack
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.postings import Postings, present
from dvidzarr.storage.runs import ROW, TOMBSTONE
from tests.property.dags import RandomVersions, version_graphs

KEYS = [pack_one((z, y, x)) for z in (-1, 0) for y in (0, 1) for x in (0, 2)]

Step = tuple[str, int, list[tuple[int, bool]]]
steps = st.lists(
    st.tuples(
        st.sampled_from(("publish", "publish", "publish", "fold", "settle", "restart", "again")),
        st.integers(0, 8),
        st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=6, unique_by=lambda item: item[0]),
    ),
    max_size=25,
)


class Dictionary:
    """(key, version) → row, with nothing clever."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], dict[str, int]] = {}

    def publish(self, keys: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
        """Add rows; return (key, location) of those they supersede."""
        old = []
        for key, row in zip(keys.tolist(), rows, strict=True):
            place = key, int(row["ordinal"])
            if place in self.rows:
                old.append((key, self.rows[place]["location"]))
            self.rows[place] = {name: int(row[name]) for name in ("sequence", "location", "flags")}
        return old

    def settle(self, ordinal: int) -> None:
        """Put all that a version wrote under its Zarr keys."""
        for (_, version), row in self.rows.items():
            if version == ordinal:
                row["location"] = 0

    def seen(self, versions: RandomVersions, ordinal: int, key: int) -> dict[str, int] | None:
        for version in reversed(versions.chain(ordinal)):
            if (key, version) in self.rows:
                return self.rows[key, version]
        return None


def rows_of(sequence: int, ordinal: int, chunks: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.zeros(len(chunks), ROW)
    rows["sequence"], rows["ordinal"], rows["origin"] = sequence, ordinal, ordinal
    rows["location"] = [sequence * 100 + index for index in range(len(chunks))]
    rows["flags"] = [TOMBSTONE if gone else 0 for _, gone in chunks]
    return np.array([key for key, _ in chunks], np.int64), rows


def compare(postings: Postings, expected: Dictionary, versions: RandomVersions) -> None:
    for ordinal in range(len(versions.above)):
        lineage = versions.lineage(ordinal)
        rows = postings.resolve(np.array(KEYS), lineage)
        for key, row in zip(KEYS, rows, strict=True):
            want = expected.seen(versions, ordinal, key)
            if want is None:
                assert row["ordinal"] == -1
            else:
                assert {name: int(row[name]) for name in want} == want
        for key, row in zip(KEYS, rows, strict=True):
            assert postings.find(key, lineage) == (row.item() if present(np.array([row]))[0] else None)
        shown = [key for key, row in zip(KEYS, rows, strict=True) if present(np.array([row]))[0]]
        assert postings.visible(lineage).tolist() == sorted(shown)


LAYERS = [(3, 64, 32, 1 << 17, 8), (3, 3, 1, 1 << 17, 2), (5, 4, 2, 3, 0), (2, 2, 0, 1, 1)]
"""Many layers, few, merged late; own rows looked up one after another, and together."""
_LIMITS = (
    (postings_module, "_NEWEST_LIMIT"),
    (postings_module, "_MANY"),
    (runstack, "_RATIO"),
    (runstack, "_AT_ONCE"),
    (postings_module, "_SINGLY"),
)


@pytest.fixture(autouse=True, scope="module", params=LAYERS)
def layers(request: pytest.FixtureRequest) -> object:
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), number in zip(_LIMITS, request.param, strict=True):
            patch.setattr(module, name, number)
        yield


@given(version_graphs(merges=False), steps)
def test_the_nearest_version_wins_whatever_the_layers(versions: RandomVersions, todo: list[Step]) -> None:
    postings, expected = Postings(), Dictionary()
    published: list[tuple[np.ndarray, np.ndarray]] = []
    for sequence, (what, number, chunks) in enumerate(todo, 1):
        ordinal = number % len(versions.above)
        if what == "publish":
            published.append(rows_of(sequence, ordinal, chunks))
            old = postings.publish(*published[-1])
            assert [(key, row[1]) for key, row in old] == expected.publish(*published[-1])
        elif what == "fold":
            postings.snapshot()
        elif what == "settle":
            postings.settle(ordinal, sequence)
            expected.settle(ordinal)
        elif what == "restart":
            runs = postings.runs()
            postings = Postings()
            postings.load(*runs)
        elif what == "again":  # replay from before the stamp of a cache
            for keys, rows in published[number % (len(published) + 1) :]:
                assert postings.publish(keys, rows) == []
        compare(postings, expected, versions)


def test_settling_spares_what_was_written_after_it() -> None:
    """A cache may hold rows from behind its stamp: then an older `finished` record is replayed over them."""
    postings = Postings()
    keys, rows = rows_of(7, 0, [(0, False)])
    postings.publish(keys, rows)
    postings.settle(0, 6)
    assert postings.own(keys.tolist(), 0)[0][1] == rows["location"][0] != 0  # type: ignore[index]
    postings.settle(0, 8)
    assert postings.own(keys.tolist(), 0)[0][1] == 0  # type: ignore[index]
