"""Isotropic and arbitrarily oriented slices against plain loops over exact numbers."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, ChunkSpan
from dvidzarr.datatypes.voxels import resample
from dvidzarr.datatypes.voxels.arb import ArbPlane, Sampler
from dvidzarr.datatypes.voxels.slices import parse_format
from dvidzarr.wire.images import ImageFormat

RANDOM = np.random.default_rng(7)


def area_scaled(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale by exact area, as spec-voxels §5.3 defines it."""
    rows, columns = plane.shape
    out = np.zeros((height, width), plane.dtype)
    for y, x in np.ndindex(height, width):
        total = Fraction(0)
        for sy, sx in np.ndindex(rows, columns):
            oy = min((sy + 1) * height, (y + 1) * rows) - max(sy * height, y * rows)
            ox = min((sx + 1) * width, (x + 1) * columns) - max(sx * width, x * columns)
            total += int(plane[sy, sx]) * max(oy, 0) * max(ox, 0)
        out[y, x] = floor(total / (rows * columns))
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (20, 3), (4, 17), (9, 10)])
def test_scaling_is_exact_area(dtype: type, size: tuple[int, int]) -> None:
    plane = RANDOM.integers(0, np.iinfo(dtype).max, (6, 9), dtype, endpoint=True)
    np.testing.assert_array_equal(resample.resize(plane, size), area_scaled(plane, *size))


def test_scaling_in_stripes_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = RANDOM.integers(0, 256, (31, 17), np.uint8)
    expected = resample.resize(plane, (23, 40))
    monkeypatch.setattr(resample, "_STRIPE_PIXELS", 100)
    np.testing.assert_array_equal(resample.resize(plane, (23, 40)), expected)


def test_scaling_example_of_the_specification() -> None:
    assert resample.resize(np.array([[0, 100, 200]], np.uint8), (2, 1)).tolist() == [[33, 166]]


def test_channels_are_scaled_separately() -> None:
    plane = RANDOM.integers(0, 256, (4, 6, 4), np.uint8)
    scaled = resample.resize(plane, (5, 3))
    for channel in range(4):
        np.testing.assert_array_equal(scaled[..., channel], area_scaled(plane[..., channel], 5, 3))


def test_wide_values_are_never_averaged() -> None:
    labels = np.array([[1 << 60, 7]], np.uint64)
    assert resample.resize(labels, (4, 2)).tolist() == [[1 << 60, 1 << 60, 7, 7]] * 2


@pytest.mark.parametrize(
    ("size", "resolution", "raw"),
    [
        ((2, 10), (8, 40), (2, 2)),
        ((30, 1), (8, 40), (30, 0)),
        ((20, 20), (10, 3), (6, 20)),
        ((20, 20), (8, 8), (20, 20)),
    ],
)
def test_size_of_the_raw_slice(
    size: tuple[int, int], resolution: tuple[float, float], raw: tuple[int, int]
) -> None:
    assert resample.isotropic_size(size, resolution) == raw


class Blocks:
    """Blocks in memory; the volume's origin is (0, 0, 0) and beyond it nothing was written."""

    def __init__(self, volume: np.ndarray, chunk: ZYX) -> None:
        self.volume, self.chunk = volume, chunk

    def blocks(self, span: ChunkSpan) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        for z, y, x in span.coords().tolist():
            corner = [k * n for k, n in zip((z, y, x), self.chunk, strict=True)]
            inside = all(0 <= a < n for a, n in zip(corner, self.volume.shape, strict=True))
            place = tuple(slice(a, a + n) for a, n in zip(corner, self.chunk, strict=True))
            yield (z, y, x), self.volume[place] if inside else None


VOLUME = RANDOM.integers(0, 256, (16, 24, 32), np.uint8)
SAMPLER = Sampler(Blocks(VOLUME, (8, 8, 8)), (8, 8, 8), (8.0, 8.0, 8.0), absent=10)


def voxel(z: int, y: int, x: int) -> int:
    inside = all(0 <= a < n for a, n in zip((z, y, x), VOLUME.shape, strict=True))
    return int(VOLUME[z, y, x]) if inside else 10


def interpolated(point: np.ndarray) -> int:
    low, high = [floor(p) for p in point], [ceil(p) for p in point]
    fx, fy, fz = (p - a for p, a in zip(point, low, strict=True))
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        x, y, z = ((low, high)[c][axis] for axis, c in enumerate(corner))
        weights = [f if c else 1 - f for c, f in zip(corner, (fx, fy, fz), strict=True)]
        total += voxel(z, y, x) * float(np.prod(weights))
    return min(255, floor(total + 0.5))


def test_an_axis_aligned_plane_is_the_voxels() -> None:
    plane = ArbPlane.spanned((0, 0, 40), (248, 0, 40), (0, 184, 40), 8)
    np.testing.assert_array_equal(SAMPLER.image(plane), VOLUME[5])


def test_an_oblique_plane_is_interpolated() -> None:
    plane = ArbPlane.spanned((3, -5, 7), (200, 60, 90), (20, 150, 30), 11.5)
    image = SAMPLER.image(plane)
    assert image.shape == (plane.height, plane.width)
    for j, i in np.ndindex(image.shape):
        place = np.add(plane.top_left, np.multiply(plane.step_x, i)) + np.multiply(plane.step_y, j)
        assert abs(int(image[j, i]) - interpolated(place / 8)) <= 1


def test_tiles_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = ArbPlane.spanned((3, -5, 7), (200, 60, 90), (20, 150, 30), 1.5)
    whole = SAMPLER.image(plane)
    monkeypatch.setattr("dvidzarr.datatypes.voxels.arb.TILE_PIXELS", 50)
    np.testing.assert_array_equal(SAMPLER.image(plane), whole)


def test_a_line_is_one_row() -> None:
    # E16: voxels 10, 20, 30 at a pitch of half a voxel
    line = np.zeros((8, 8, 8), np.uint8)
    line[0, 0, :3] = 10, 20, 30
    sampler = Sampler(Blocks(line, (8, 8, 8)), (8, 8, 8), (8.0, 8.0, 8.0))
    plane = ArbPlane.spanned((0, 0, 0), (16, 0, 0), (0, 0, 0), 4)
    assert sampler.image(plane).tolist() == [[10, 15, 20, 25, 30]]


@pytest.mark.parametrize("res", [0.0, -8.0])
def test_no_resolution(res: float) -> None:
    with pytest.raises(InvalidInputError, match="Bad arbitrary image size"):
        ArbPlane.spanned((0, 0, 0), (8, 0, 0), (0, 8, 0), res)


def test_endless_planes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="exceeds"):
        ArbPlane.spanned((0, 0, 0), (1e300, 0, 0), (0, 1e300, 0), 1e-300).check(1 << 31)


def test_nothing_lies_beyond_the_chunks_that_can_be() -> None:
    image = SAMPLER.image(ArbPlane.spanned((0, 0, 0), (1e150, 0, 0), (0, 0, 0), 1e149))
    assert image.tolist() == [[voxel(0, 0, 0)] + [SAMPLER.absent] * 10]


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("", ImageFormat("png", 80)),
        ("jpg", ImageFormat("jpeg", 80)),
        ("jpeg:-3", ImageFormat("jpeg", -3)),
        ("png:7", ImageFormat("png", 7)),
        ("tif", ImageFormat("tiff", 80)),
    ],
)
def test_formats(text: str, image: ImageFormat) -> None:
    assert parse_format(text) == image


@pytest.mark.parametrize("text", ["PNG", "gif", "jpg:", "png:x", "jpg:" + "9" * 5000, "raw"])
def test_bad_formats(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_format(text)
