"""`view[…]` and `view.write` against numpy: what an index names, and what is refused instead of being bent into shape."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.repo import Repo

SHAPE = (5, 6, 7)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        yield catalog.create_repo("indexing")


def volume(repo: Repo, typename: str = "uint8blk") -> VoxelView:
    view = repo.create_instance(typename, typename, {"BlockSize": "4,4,4"}).at()
    assert isinstance(view, VoxelView)
    return view


@pytest.fixture
def gray(repo: Repo) -> VoxelView:
    view = volume(repo)
    view.write(Box((0, 0, 0), SHAPE), np.arange(5 * 6 * 7, dtype=np.uint8).reshape(SHAPE))
    return view


@pytest.mark.parametrize(
    "index", [..., (..., 2), (1, ...), (1, ..., 2), (1, 2, 3, ...), np.s_[1:3, ..., 2:4], np.int64(2), ()]
)
def test_dots_stand_for_whole_axes(gray: VoxelView, index: object) -> None:
    voxels = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(gray[index], voxels[index])  # type: ignore[call-overload]
    gray[index] = 9
    voxels[index] = 9  # type: ignore[call-overload]
    np.testing.assert_array_equal(gray[...], voxels)


@pytest.mark.parametrize(
    "index",
    [
        (0, 0, 0, 0),
        (..., ...),
        True,
        1.5,
        np.s_[0:1.5],
        np.s_[0.5:],
        np.s_[::2],
        [1, 2],
        np.array([1]),
        None,
        "a",
    ],
)
def test_other_indices_are_refused(gray: VoxelView, index: object) -> None:
    with pytest.raises(InvalidInputError, match="index"):
        gray[index]
    with pytest.raises(InvalidInputError, match="index"):
        gray[index] = 1


@pytest.mark.parametrize(
    ("typename", "number"),
    [
        ("uint8blk", 256),
        ("uint8blk", -1),
        ("uint8blk", 1.5),
        ("uint8blk", np.nan),
        ("uint8blk", None),
        ("uint8blk", "a"),
        ("uint8blk", 2**70),
        ("uint64blk", -1),
        ("uint64blk", 2**64),
        ("float32blk", 1e300),
        ("float32blk", 1j),
    ],
)
def test_a_number_that_the_type_cannot_hold_is_refused(repo: Repo, typename: str, number: object) -> None:
    view = volume(repo, typename)
    with pytest.raises(InvalidInputError, match="is no voxel of type"):
        view[0:2, 0:2, 0:2] = number
    assert view.extents is None


@pytest.mark.parametrize(
    ("typename", "number"),
    [("uint8blk", 255), ("uint8blk", 3.0), ("uint8blk", True), ("uint64blk", 2**64 - 1), ("float32blk", 0.1),
     ("float32blk", np.nan), ("float32blk", -np.inf)],
)  # fmt: skip
def test_a_number_that_the_type_holds_fills_the_box(repo: Repo, typename: str, number: object) -> None:
    view = volume(repo, typename)
    view[0:2, 0:2, 0:2] = number
    np.testing.assert_array_equal(view[...], np.full((2, 2, 2), number, view.instance.dtype))


def test_an_array_that_does_not_fit_is_refused(gray: VoxelView) -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(3,\) do not fit"):
        gray[0:2, 0:2, 0:2] = np.zeros(3, np.uint8)


@pytest.mark.parametrize(
    "box", [Box((4, 4, 4), (4, 8, 8)), Box((1, 1, 1), (1, 1, 1)), Box((4, 4, 4), (0, 0, 0))]
)
def test_an_empty_box_is_not_written(repo: Repo, box: Box) -> None:
    view = volume(repo)
    with pytest.raises(InvalidInputError, match="not positive"):
        view.write(box, np.zeros([max(0, size) for size in box.shape], np.uint8))
    with pytest.raises(InvalidInputError, match="not positive"):
        view[tuple(map(slice, box.start, box.stop))] = 1
    assert (view.extents, view.shape) == (None, (0, 0, 0))


def test_numpy_sees_the_whole_volume(gray: VoxelView) -> None:
    """Not one object, whose mean or sum is an error at best."""
    voxels = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(np.asarray(gray), voxels)
    assert np.asarray(gray, np.float32).dtype == np.float32
    assert np.mean(gray) == voxels.mean()
    with pytest.raises(ValueError, match="without a copy"):
        np.array(gray, copy=False)


def test_a_volume_has_no_end_to_iterate_to(gray: VoxelView) -> None:
    """All coordinates can be read: `for plane in view` would never end."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(gray)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not a container"):
        assert 3 in gray  # type: ignore[operator]


@pytest.mark.parametrize("typename", ["uint16blk", "uint32blk", "uint64blk", "float32blk"])
def test_numbers_in_the_byte_order_of_other_machines_are_the_same_numbers(repo: Repo, typename: str) -> None:
    view = volume(repo, typename)
    voxels = (np.arange(5 * 6 * 7) * 200).reshape(SHAPE).astype(view.instance.dtype.newbyteorder(">"))
    view[0:5, 0:6, 0:7] = voxels
    view.write(Box((5, 0, 0), (10, 6, 7)), voxels)
    np.testing.assert_array_equal(view[0:5], voxels)
    np.testing.assert_array_equal(view[5:10], voxels)


@pytest.mark.parametrize("region", [3, None, b"roi"])
def test_a_region_is_a_view_or_a_name(gray: VoxelView, region: object) -> None:
    with pytest.raises(InvalidInputError, match="a region is a view of it or its name, not"):
        gray.masked(region)  # type: ignore[arg-type]


@pytest.mark.parametrize("coords", [[[0.0, 0, 0.5]], [[0, 0]], [0, 0, 0], 3, None, [["a", "b", "c"]]])
def test_coordinates_of_blocks_are_whole_numbers(gray: VoxelView, coords: object) -> None:
    blocks = np.ones((1, 4, 4, 4), np.uint8)
    with pytest.raises(InvalidInputError, match=r"must be integers of shape \(n, 3\)"):
        gray.write_blocks(coords, blocks)  # type: ignore[arg-type]
    gray.write_blocks([[-1, 0, 0]], [blocks[0]])  # type: ignore[arg-type]  # lists will do
    assert (gray[-4:0, 0:4, 0:4] == 1).all()
