"""Neuroglancer, unmodified and in a real browser, shows the served labels over the grayscale: each pixel is right."""

import numpy as np
import pytest

from tests.clients.browser import ALPHA, NEEDS_BROWSER, PLANE, Seen, look, on_black
from tests.clients.served import IDS, LABELS, Served

pytestmark = NEEDS_BROWSER

COLORS = dict(zip(IDS, ("#ff0000", "#00ff00", "#0000ff", "#ffff00"), strict=True))


@pytest.fixture(scope="module")
def seen(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Both versions in one browser."""
    versions = {"root": served.root, "child": served.child}
    layers = {name: f"{version}/raw" for name, version in versions.items()}
    labels = {name: f"{version}/{LABELS}" for name, version in versions.items()}
    return look(served, layers, tmp_path_factory.mktemp("pictures"), labels, COLORS)


def painted(gray: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the plane (y, x, RGB): the colour of the label, half and half with the image; 0 shows the image."""
    picture = np.repeat(gray[PLANE, ..., None], 3, axis=2).astype(float)
    for label, color in COLORS.items():
        mask = labels[PLANE] == label
        rgb = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)])
        picture[mask] = (1 - ALPHA) * picture[mask] + ALPHA * rgb
    return on_black(picture)


@pytest.mark.parametrize("name", ["root", "child"])
def test_every_label_has_its_colour_where_it_is(served: Served, seen: Seen, name: str) -> None:
    assert name in seen.pictures, seen.complaints
    picture = seen.pictures[name].astype(float)
    version, other = (served.root, served.child) if name == "root" else (served.child, served.root)
    off = np.abs(picture - painted(served.volumes[version], served.labels[version])).max(axis=2)
    # the image comes as JPEG, which blurs its edges; the labels come as they are
    assert off.mean() < 1
    assert (off > 8).mean() < 0.005
    assert off.max() < 40
    # and the comparison tells: the labels of the other version, or two cells exchanged, are seen
    for wrong in (served.labels[other], exchanged(served.labels[version])):
        differs = np.abs(picture - painted(served.volumes[version], wrong)).max(axis=2) > 40
        assert differs.mean() > 0.01


def exchanged(labels: np.ndarray) -> np.ndarray:
    """Return labels of which the last two have changed places: in JavaScript's numbers they are hard to tell."""
    copy = labels.copy()
    copy[labels == IDS[2]], copy[labels == IDS[3]] = IDS[3], IDS[2]
    return copy


def test_labels_came_as_compressed_segmentation(served: Served, seen: Seen) -> None:
    assert seen.complaints == ()
    paths = [path for path, status in served.requests() if f"/{LABELS}/" in path and status == 200]
    assert any("/raw/0_1_2/64_64_64/" in path for path in paths)
