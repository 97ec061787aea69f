"""The generated volume: the same however it is cut, without seams, and matching labels."""

import numpy as np
import pytest

from dvidzarr.cli.lattice import Grid, grain, smooth, uniform
from dvidzarr.cli.synthetic import Synthetic
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box

WHOLE = Box((-40, 0, 10), (30, 70, 90))
VOLUME = Synthetic(3)


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    return VOLUME.grayscale(WHOLE)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return VOLUME.labels(WHOLE)


def test_a_box_is_the_same_however_it_is_cut(gray: np.ndarray, labels: np.ndarray) -> None:
    corners = (((-40, 0, 10), (-39, 70, 90)), ((-7, 33, 31), (5, 41, 77)), ((29, 69, 89), (30, 70, 90)))
    for part in (Box(*pair) for pair in corners):
        place = tuple(slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, WHOLE.start, strict=True))
        assert np.array_equal(VOLUME.grayscale(part), gray[place])
        assert np.array_equal(VOLUME.labels(part), labels[place])


def test_the_seed_decides(gray: np.ndarray) -> None:
    small = Box((0, 0, 10), (8, 64, 64))
    place = (slice(40, 48), slice(0, 64), slice(0, 54))
    assert np.array_equal(Synthetic(3).grayscale(small), gray[place])
    assert not np.array_equal(Synthetic(4).grayscale(small), gray[place])


def test_it_looks_like_tissue(gray: np.ndarray, labels: np.ndarray) -> None:
    assert gray.dtype == np.uint8
    assert 130 < gray.mean() < 180
    assert 20 < gray.std() < 50
    assert labels.dtype == np.uint64
    assert labels.all()
    assert 10 < len(np.unique(labels)) < 400


def test_membranes_are_dark_where_labels_meet(gray: np.ndarray, labels: np.ndarray) -> None:
    edge = np.zeros(labels.shape, bool)
    edge[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    assert gray[edge].mean() < gray[~edge].mean() - 30


def test_no_seam_at_tile_borders(labels: np.ndarray, gray: np.ndarray) -> None:
    changes = [(labels[z] != labels[z - 1]).mean() for z in range(1, len(labels))]
    steps = [np.abs(gray[z].astype(int) - gray[z - 1]).mean() for z in range(1, len(gray))]
    for border in (-32 + 40, 0 + 40):
        assert changes[border - 1] < 3 * np.median(changes)
        assert steps[border - 1] < 1.5 * np.median(steps)


def test_thick_sections_change_faster() -> None:
    box = Box((0, 0, 0), (8, 64, 64))

    def change(voxel_size: tuple[float, float, float]) -> float:
        labels = Synthetic(1, voxel_size).labels(box)
        return float((labels[1:] != labels[:-1]).mean())

    assert change((8, 8, 40)) > 2 * change((8, 8, 8))


def test_voxel_sizes_of_no_instrument_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="voxel size"):
        Synthetic(0, (8, 8, 0))


def test_noise_is_a_function_of_position() -> None:
    axis = np.arange(-20, 60) * 1.25
    whole = smooth(5, Grid(axis, axis, axis), 7.0)
    part = smooth(5, Grid(axis[3:9], axis[10:70], axis), 7.0)
    assert np.allclose(whole[3:9, 10:70], part, atol=1e-4)
    assert 0.5 < whole.std() < 2
    white = grain(5, (0, 0, 0), (16, 16, 16))
    assert np.array_equal(white[4:8], grain(5, (4, 0, 0), (4, 16, 16)))
    assert abs(white.mean()) < 0.1
    assert 0.9 < white.std() < 1.1
    numbers = uniform(1, np.arange(-1000, 1000))
    assert 0.45 < numbers.mean() < 0.55
    assert len(np.unique(numbers)) > 1990
