"""Span sets against plain Python sets, and partitions against a walk over them as DVID's description has it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box, ChunkSpan
from dvidzarr.datatypes.roi.partition import Partition, partition
from dvidzarr.datatypes.roi.spans import Spans
from dvidzarr.datatypes.roi.tuples import parse_tuples

Row = tuple[int, int, int, int]
Blocks = set[tuple[int, int, int]]

EDGES = (-(2**31), 2**31 - 1)
COORD = st.integers(-9, 9)
SPAN = st.tuples(COORD, COORD, COORD, st.integers(0, 12)).map(lambda s: (s[0], s[1], s[2], s[2] + s[3]))
SPANS = st.lists(SPAN, max_size=25)


def blocks_of(rows: list[Row]) -> Blocks:
    return {(z, y, x) for z, y, x0, x1 in rows for x in range(x0, x1 + 1)}


def all_blocks(span: ChunkSpan) -> list[tuple[int, int, int]]:
    return [tuple(coord) for coord in span.coords().tolist()]


@given(SPANS)
def test_spans_are_sorted_and_distinct(rows: list[Row]) -> None:
    spans = Spans.of(rows)
    assert list(map(tuple, spans.rows.tolist())) == sorted(set(rows))
    assert spans.z_range == ((min(rows)[0], max(rows)[0]) if rows else None)
    again = Spans.from_bytes(spans.to_bytes())
    assert np.array_equal(again.rows, spans.rows)


@given(SPANS)
def test_contains_knows_every_block(rows: list[Row]) -> None:
    inside = blocks_of(rows)
    asked = all_blocks(ChunkSpan((-10, -10, -10), (11, 11, 23)))
    assert Spans.of(rows).contains(asked).tolist() == [block in inside for block in asked]


@given(SPANS, st.tuples(COORD, COORD, COORD), st.tuples(*[st.integers(1, 9)] * 3))
def test_raster_knows_every_block(
    rows: list[Row], start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    z, y, x = (a + b for a, b in zip(start, size, strict=True))
    span = ChunkSpan(start, (z, y, x))
    inside = blocks_of(rows)
    wanted = np.array([block in inside for block in all_blocks(span)]).reshape(size)
    assert np.array_equal(Spans.of(rows).raster(span), wanted)


@given(SPANS, st.tuples(*[st.integers(-40, 40)] * 3), st.tuples(*[st.integers(1, 20)] * 3))
def test_mask_floors_voxels(rows: list[Row], start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    block = (2, 3, 5)
    box = Box(start, tuple(a + b for a, b in zip(start, size, strict=True)))  # type: ignore[arg-type]
    spans = Spans.of(rows)
    voxels = np.stack(np.meshgrid(*map(np.arange, box.start, box.stop), indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    assert np.array_equal(spans.mask(box, block).ravel(), spans.contains(voxels // np.array(block)))


def test_spans_reach_the_ends_of_int32() -> None:
    low, high = EDGES
    spans = Spans.of([[low, high, low, high], [high, low, high, high]])
    asked = [[low, high, 0], [low, high, high], [high, low, high], [high, low, high - 1], [low - 1, high, 0]]
    assert spans.contains(asked).tolist() == [True, True, True, False, False]
    assert not Spans.of(()).contains(asked).any()


@pytest.mark.parametrize(
    "rows", [[[0, 0, 5, 2]], [[0, 0, 0, 2**31]], [[0, 0, 0]], [[0.5, 0, 0, 1]], [[True, True, True, True]]]
)
def test_bad_spans_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError):
        Spans.of(rows)


# --- JSON ----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(*EDGES), max_size=6), max_size=6), st.integers(1, 4)
)
def test_tuples_are_filled_and_cut(items: list[list[int | None] | None], width: int) -> None:
    text = str(items).replace("None", "null").encode()
    wanted = [[value or 0 for value in [*(item or []), *[0] * width][:width]] for item in items]
    assert parse_tuples(text, width).tolist() == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{}", "[1,2,3,4]", "[[1,2,3,4.0]]", "[[1,2,3,4e0]]", '[["1",2,3,4]]', "[[1,2,3,true]]",
        "[[1,2,3,2147483648]]", "[[[1,2,3,4]]]", "[[1,2,3,4]", "[{}]", "5", "[[1,2,3,99999999999999999999999]]",
    ],
)  # fmt: skip
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_tuples(text.encode(), 4)


# --- partitions ----------------------------------------------------------------------------------------------


def simple_walk(rows: list[Row], size: int) -> tuple[int, int, list[tuple[object, ...]]]:
    """Cut as spec-roi §3.5.1 words it, block by block."""
    rows = sorted(set(rows))
    low, high = rows[0][0], rows[-1][0]
    layers: list[tuple[int, list[Row]]] = [(low - (high - low + 1) % size // 2, [])]
    for row in rows:
        if row[0] > layers[-1][0] + size - 1:
            layers.append((layers[-1][0] + size, []))
        layers[-1][1].append(row)
    total, active, boxes = 0, 0, []
    for z, layer in layers:
        if not layer:
            continue
        top, bottom = min(r[1] for r in layer), max(r[1] for r in layer)
        spare = (bottom - top + 1) % size
        for y in range(top - spare // 2, bottom + spare - spare // 2 + 1, size):
            line = [r for r in layer if y <= r[1] < y + size]
            if not line:
                continue
            left, right = min(r[2] for r in line), max(r[3] for r in line)
            more = (right - left + 1) % size
            for x in range(left - more // 2, right + more - more // 2 + 1, size):
                held = sum(x <= c < x + size for r in line for c in range(r[2], r[3] + 1))
                total, active = total + size**3, active + held
                if held:
                    boxes.append(((x, y, z), (x + size - 1, y + size - 1, z + size - 1), size**3, held))
    return total, active, boxes


def optimized_walk(rows: list[Row], size: int) -> tuple[int, int, list[list[object]]]:
    """Cut as spec-roi §3.5.2 words it, column by column."""
    rows = sorted(set(rows))
    low, high = rows[0][0], rows[-1][0]
    spare = (high - low + 1) % size
    layers: list[tuple[int, int, list[Row]]] = [(low, low + size - 1, [])]
    for row in rows:
        if row[0] > layers[-1][1]:
            start = layers[-1][1] + 1
            layers.append((start, start + size - 1 + (spare > 0), []))
            spare -= spare > 0
        layers[-1][2].append(row)
    total, active, boxes = 0, 0, []
    for z0, z1, layer in layers:
        if not layer:
            continue
        top, bottom = min(r[1] for r in layer), max(r[1] for r in layer)
        more, y = (bottom - top + 1) % size, top
        while y <= bottom:
            y0, y1 = y, y + size - 1 + (more > 0)
            more, y = more - (more > 0), y1 + 1
            line = [r for r in layer if y0 <= r[1] <= y1]
            if not line:
                continue
            columns = [x for r in line for x in range(r[2], r[3] + 1)]
            left, right = min(columns), max(columns)
            wide, x = (right - left + 1) % size, left
            while x <= right:
                stop = x + size - 1 + (wide > 0)
                wide -= wide > 0
                holes = [
                    (a, b) for a in range(x, stop + 1) for b in range(a, stop + 1)
                    if not any(a <= c <= b for c in columns)
                ]  # fmt: skip
                hole = max(holes, key=lambda h: (h[1] - h[0], -h[0]), default=None)
                end = stop if hole is None else hole[0] - 1
                if end >= x:
                    volume = (end - x + 1) * (y1 - y0 + 1) * (z1 - z0 + 1)
                    held = sum(x <= c <= end for c in columns)
                    total, active = total + volume, active + held
                    if hole is None or not boxes:
                        boxes.append([(x, y0, z0), (end, y1, z1), volume, held])
                    else:
                        boxes[-1][1] = (end, y1, z1)
                        boxes[-1][2] += volume
                        boxes[-1][3] += held
                x = stop + 1 if hole is None else hole[1] + 1
    return total, active, boxes


def summary(found: Partition) -> tuple[int, int, list[tuple[object, ...]]]:
    boxes = [(box.min_chunk, box.max_chunk, box.total, box.active) for box in found.subvolumes]
    return found.total, found.active, boxes


FAR = [(0, 0, 0, 0), (9, 0, 0, 0), (9, 1, 0, 0), (9, 2, 0, 0)]


@given(SPANS.filter(bool), st.integers(1, 7))
@example(FAR, 2)
def test_simple_partition(rows: list[Row], size: int) -> None:
    spans = Spans.of(rows)
    found = partition(spans, spans.z_range, size, (8, 4, 2), optimized=False)
    assert summary(found) == simple_walk(rows, size)
    for box in found.subvolumes:
        assert box.min_point == (box.min_chunk[0] * 2, box.min_chunk[1] * 4, box.min_chunk[2] * 8)
        assert box.max_point[2] == (box.max_chunk[2] + 1) * 8 - 1
    assert found.min_chunk[0] == min(0, *(row[2] for row in rows))
    assert found.max_chunk[1] == max(0, *(row[1] for row in rows))


@given(SPANS.filter(bool), st.integers(1, 7))
@example(FAR, 2)
@example([(0, 0, 0, 1), (0, 0, 3, 7)], 4)
def test_optimized_partition(rows: list[Row], size: int) -> None:
    spans = Spans.of(rows)
    found = partition(spans, spans.z_range, size, (8, 4, 2), optimized=True)
    total, active, boxes = optimized_walk(rows, size)
    assert summary(found) == (total, active, [tuple(box) for box in boxes])


@pytest.mark.parametrize("optimized", [False, True])
def test_partitions_end(optimized: bool) -> None:
    """Where DVID would never end: wide gaps cost nothing, wide spans are refused."""
    low, high = EDGES
    spans = Spans.of([[low, low, low, low], [low, low, high, high], [high, high, 0, 0]])
    found = partition(spans, spans.z_range, 3, (32, 32, 32), optimized=optimized)
    assert found.active == 3
    with pytest.raises(InvalidInputError):
        partition(Spans.of([[0, 0, low, high]]), (0, 0), 3, (32, 32, 32), optimized=optimized)
    with pytest.raises(InvalidInputError):
        partition(spans, spans.z_range, 0, (32, 32, 32), optimized=optimized)
    huge = partition(spans, spans.z_range, 2_000_000_000, (32, 32, 32), optimized=optimized)
    assert huge.active == 3
