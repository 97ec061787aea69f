"""The payload of a `chunks` record, read in either way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import CorruptionError
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.chunkrecords import Receipt, count_of, payload_of, row_tuples_of, rows_of

_AT = st.integers(-(1 << 20), (1 << 20) - 1)
_U32 = st.integers(0, (1 << 32) - 1)
receipts = st.lists(
    st.builds(
        Receipt,
        st.tuples(_AT, _AT, _AT),
        st.integers(0, (1 << 63) - 1),
        _U32,
        _U32,
        st.integers(0, 255),
        st.just("key"),
    ),
    max_size=5,
)


@given(receipts, st.integers(0, 1000), st.integers(1, 1 << 47))
def test_rows_are_what_was_written(written: list[Receipt], ordinal: int, sequence: int) -> None:
    payload = memoryview(payload_of(written))
    expected = [
        (pack_one(r.coord), (sequence, r.location, ordinal, ordinal, r.length, r.checksum, r.flags))
        for r in written
    ]
    assert row_tuples_of(payload, ordinal, sequence) == expected
    keys, rows = rows_of(payload, ordinal, sequence)
    assert list(zip(keys.tolist(), rows.tolist(), strict=True)) == expected
    assert count_of(payload, sequence) == len(written)


@given(receipts, st.integers(1, 40))
def test_a_record_of_another_length_is_refused(written: list[Receipt], more: int) -> None:
    longer = memoryview(payload_of(written) + bytes(more))
    for reader in (row_tuples_of, rows_of):
        with pytest.raises(CorruptionError, match="declares"):
            reader(longer, 0, 1)
