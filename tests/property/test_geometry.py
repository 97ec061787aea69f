"""Boxes and chunk spans against sets of voxels."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, Box, ChunkSpan
from dvidzarr.storage.chunkkeys import pack, pack_one, pack_span, unpack, unpack_one

corner = st.tuples(*(st.integers(-9, 9) for _ in range(3)))
size = st.tuples(*(st.integers(1, 7) for _ in range(3)))
grids = st.tuples(*(st.integers(1, 4) for _ in range(3)))
boxes = st.builds(lambda a, n: Box(a, tuple(x + y for x, y in zip(a, n, strict=True))), corner, size)  # type: ignore[arg-type]
far = st.integers(-CHUNK_LIMIT, CHUNK_LIMIT - 1)


def voxels(box: Box) -> set[ZYX]:
    return set(product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))  # type: ignore[arg-type]


@given(boxes)
def test_a_box_survives_the_order_of_dvid(box: Box) -> None:
    offset, extent = box.to_xyz()
    assert Box.from_xyz(offset, extent) == box
    assert offset[::-1] == box.start
    assert box.volume == len(voxels(box))


@given(boxes, boxes)
def test_intersection_and_union(one: Box, other: Box) -> None:
    common = one.intersect(other)
    assert (set() if common is None else voxels(common)) == voxels(one) & voxels(other)
    both = one.union(other)
    assert voxels(both) >= voxels(one) | voxels(other)
    assert both.start == tuple(map(min, one.start, other.start))
    assert both.stop == tuple(map(max, one.stop, other.stop))


@given(boxes, boxes)
def test_slices_find_a_box_inside_another(one: Box, other: Box) -> None:
    whole = one.union(other)
    array = np.zeros(whole.shape, bool)
    array[one.slices(whole.start)] = True
    found = (np.argwhere(array) + whole.start).tolist()
    assert {tuple(voxel) for voxel in found} == voxels(one)


@given(corner, grids)
def test_a_chunk_is_a_box_of_its_own(coord: ZYX, grid: ZYX) -> None:
    box = Box.of_chunk(coord, grid)
    assert box == ChunkSpan(coord, tuple(at + 1 for at in coord)).box(grid)  # type: ignore[arg-type]
    assert box.only_chunk(grid) == coord
    assert Box.of(list(box.start), iter(box.stop)) == box


@given(boxes, grids)
def test_chunks_are_those_that_hold_a_voxel(box: Box, grid: ZYX) -> None:
    touched = {tuple(a // n for a, n in zip(voxel, grid, strict=True)) for voxel in voxels(box)}
    span = box.chunks(grid)
    listed = [tuple(coord) for coord in span.coords().tolist()]
    assert set(listed) == touched
    assert listed == sorted(listed)
    assert span.count == len(listed)
    assert box.is_aligned(grid) == (len(touched) * int(np.prod(grid)) == box.volume)


@given(boxes, grids, st.integers(1, 200))
def test_slabs_tile_a_box_on_the_grid(box: Box, grid: ZYX, limit: int) -> None:
    slabs = list(box.slabs(grid, limit))
    assert sum(slab.volume for slab in slabs) == box.volume
    assert set().union(*map(voxels, slabs)) == voxels(box)
    for slab in slabs[:-1]:
        assert slab.stop[0] % grid[0] == 0
    assert all(slab.volume <= max(limit, slab.shape[1] * slab.shape[2] * grid[0]) for slab in slabs)


@given(st.lists(st.tuples(far, far, far), min_size=1))
def test_packed_keys_keep_coordinates_and_their_order(coords: list[ZYX]) -> None:
    keys = pack(np.array(coords))
    assert [tuple(c) for c in unpack(keys).tolist()] == coords
    assert [pack_one(coord) for coord in coords] == keys.tolist()
    assert [unpack_one(key) for key in keys.tolist()] == coords
    assert [unpack_one(key) for key in sorted(keys.tolist())] == sorted(coords)


@given(boxes, grids)
def test_packed_spans(box: Box, grid: ZYX) -> None:
    span = box.chunks(grid)
    assert pack_span(span).tolist() == pack(span.coords()).tolist()


def test_coordinates_are_limited() -> None:
    edge = ChunkSpan((-CHUNK_LIMIT,) * 3, (CHUNK_LIMIT,) * 3)
    assert edge.check() is edge
    for axis in range(3):
        beyond = [CHUNK_LIMIT] * 3
        beyond[axis] += 1
        with pytest.raises(InvalidInputError):
            ChunkSpan((0, 0, 0), tuple(beyond)).check()  # type: ignore[arg-type]
