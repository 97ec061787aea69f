"""Neuroglancer, unmodified and in a real browser, shows the served grayscale: its pixels are our voxels."""

from pathlib import Path

import numpy as np
import pytest

from tests.clients.browser import HEIGHT, NEEDS_BROWSER, PLANE, WIDTH, Seen, look, on_black
from tests.clients.served import INSTANCES, Served, serving

pytestmark = NEEDS_BROWSER

REFUSED = "blocked by CORS policy"


def expected(volume: np.ndarray) -> np.ndarray:
    """Return the picture of a volume: its plane, one voxel per pixel, on black."""
    return on_black(volume[PLANE])


def differences(picture: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - wanted.astype(int))


@pytest.fixture(scope="module")
def seen(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All layers in one browser, because starting one takes longest."""
    versions = {"root": served.root, "child": served.child, "master": f"{served.root}:master"}
    layers = {
        f"{instance}-{name}": f"{version}/{instance}"
        for instance in INSTANCES
        for name, version in versions.items()
    }
    return look(served, layers, tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("instance", sorted(INSTANCES))
@pytest.mark.parametrize("version", ["root", "child", "master"])
def test_pixels_are_the_voxels_of_the_version(
    served: Served, seen: Seen, instance: str, version: str
) -> None:
    assert f"{instance}-{version}" in seen.pictures, seen.complaints
    assert seen.pictures[f"{instance}-{version}"].shape == (HEIGHT, WIDTH, 3)
    picture = seen.pictures[f"{instance}-{version}"][..., 0]
    wanted, other = served.root, served.child
    if version != "root":
        wanted, other = other, wanted
    # both roads of Neuroglancer send JPEG, which blurs the edges of the boxes
    off = differences(picture, expected(served.volumes[wanted]))
    assert off.mean() < 1
    assert (off > 8).mean() < 0.005
    assert off.max() < 40
    assert (differences(picture, expected(served.volumes[other])) > 40).mean() > 0.02


def test_page_has_nothing_to_complain_about(served: Served, seen: Seen) -> None:
    assert seen.complaints == ()
    assert {status for _, status in served.requests()} == {200}


def test_each_encoding_takes_its_own_road(served: Served, seen: Seen) -> None:
    assert seen.pictures
    paths = [path for path, _ in served.requests()]
    assert paths[0] == "/api/repos/info"
    assert any(f"/{served.root}/raw/raw/0_1_2/64_64_64/" in path for path in paths)
    assert any(f"/{served.root}/jpeg/subvolblocks/64_64_64/" in path for path in paths)


@pytest.mark.parametrize("origins", [(), ("https://viewer.example.org",)], ids=["none", "another"])
def test_page_of_an_origin_not_allowed_shows_nothing(tmp_path: Path, origins: tuple[str, ...]) -> None:
    with serving(tmp_path / "store", *origins) as served:
        seen = look(served, {"raw": f"{served.root}/raw"}, tmp_path, complaint=REFUSED)
        paths = {path for path, _ in served.requests()}
    assert seen.pictures == {}
    assert any(REFUSED in line for line in seen.complaints), seen.complaints
    assert paths == {"/api/repos/info"}  # the page asked, and was not allowed to read the answer
