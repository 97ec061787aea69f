"""What a merge shows, against the rules taken literally."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.storage.documents import Documents
from dvidzarr.storage.merging import CONFLICTING, DELETIONS, NOTHING, choose
from dvidzarr.storage.places import DELETED, VALUE, Place
from tests.property.dags import RandomVersions, version_graphs
from tests.stateful.model import CONFLICT, Cells, ModelDag, Seen, merged


@given(version_graphs(), st.data())
def test_choose_follows_the_rules(versions: RandomVersions, data: st.DataObject) -> None:
    count = len(versions.above)
    deleted_in = data.draw(st.sets(st.integers(0, count - 1)))
    offers = st.lists(st.integers(-1, count - 1), min_size=1, max_size=4)
    columns = data.draw(st.lists(offers, min_size=1, max_size=6))
    height = max(map(len, columns))
    origins = np.full((height, len(columns)), -1, np.int32)
    for number, column in enumerate(columns):
        origins[: len(column), number] = column
    winners = choose(origins, np.isin(origins, sorted(deleted_in)), versions).tolist()
    dag = ModelDag(versions.above)
    for number, winner in enumerate(winners):
        column = origins[:, number].tolist()
        seen: list[Seen] = [None if o < 0 else (o, None if o in deleted_in else f"by {o}") for o in column]
        want = merged(dag, seen, count)
        if want is None:
            assert winner == NOTHING
            assert all(o < 0 for o in column)
        elif want[1] is CONFLICT:
            assert winner == CONFLICTING
        elif want[0] == count:
            assert winner == DELETIONS
        else:
            assert column[winner] == want[0]
            assert column.index(want[0]) == winner


Writes = list[tuple[int, bytes, bytes | None]]
keys = st.sampled_from([b"", b"a", b"ab", b"\xff"])


@given(version_graphs(), st.data())
def test_documents_show_what_the_rules_say(versions: RandomVersions, data: st.DataObject) -> None:
    write = st.tuples(st.integers(0, len(versions.above) - 1), keys, st.none() | st.binary(max_size=4))
    writes: Writes = data.draw(st.lists(write, max_size=25))
    documents, cells, dag = Documents(":memory:", versions), Cells(), ModelDag(versions.above)
    again = data.draw(st.booleans())
    records = list(enumerate(writes, 1))
    for sequence, (ordinal, key, value) in records + (records[: len(records) // 2] if again else []):
        state = DELETED if value is None else VALUE
        documents.put(key, Place(ordinal, sequence, state, value, 0, 0, len(value or b""), 0))
    for ordinal, key, value in writes:
        cells.put(ordinal, key, value)
    for ordinal in range(len(versions.above)):
        lineage = versions.lineage(ordinal)
        want = {key: cells.value(dag, ordinal, key) for key in sorted(cells.keys())}
        want = {key: value for key, value in want.items() if value is not None}
        assert {key: place.value for key, place in documents.range(lineage)} == want
        for key in sorted(cells.keys()):
            place = documents.find(key, lineage)
            assert (None if place is None else place.value) == want.get(key)
    documents.close()


def test_ranges_take_both_ends() -> None:
    versions = RandomVersions([()])
    documents = Documents(":memory:", versions)
    for number, key in enumerate((b"a", b"b", b"c", b"\xff\xff"), 1):
        documents.put(key, Place(0, number, VALUE, key, 0, 0, len(key), 0))
    lineage = versions.lineage(0)
    assert [key for key, _ in documents.range(lineage, b"b", b"c")] == [b"b", b"c"]
    assert [key for key, _ in documents.range(lineage, b"b")] == [b"b", b"c", b"\xff\xff"]
    documents.close()
