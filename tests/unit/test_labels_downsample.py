"""Half resolution of labels: the most frequent of eight, the largest of equals."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dvidzarr.datatypes.labelblk.downsample import downsampled


def one_by_one(labels: np.ndarray) -> np.ndarray:
    out = np.empty([size // 2 for size in labels.shape], np.uint64)
    for z, y, x in np.ndindex(*out.shape):
        group = labels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        out[z, y, x] = max((times, label) for label, times in Counter(group.ravel().tolist()).items())[1]
    return out


FEW = st.sampled_from([0, 1, 2, 3, 2**53 + 1, 2**63, 2**64 - 1])
SHAPES = st.tuples(*[st.integers(1, 3).map(lambda half: 2 * half)] * 3)


@given(SHAPES.flatmap(lambda shape: arrays(np.uint64, shape, elements=FEW)))
def test_equals_counting(labels: np.ndarray) -> None:
    assert np.array_equal(downsampled(labels), one_by_one(labels))


def test_ties_go_to_the_largest_and_zero_counts() -> None:
    assert downsampled(np.array([[[0, 0], [0, 0]], [[0, 7], [7, 7]]]))[0, 0, 0] == 0
    assert downsampled(np.array([[[0, 0], [0, 0]], [[7, 7], [7, 7]]]))[0, 0, 0] == 7
    assert (
        downsampled(np.array([[[1, 2], [3, 4]], [[5, 6], [7, 2**64 - 1]]], np.uint64))[0, 0, 0] == 2**64 - 1
    )
