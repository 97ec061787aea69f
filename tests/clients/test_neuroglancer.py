"""Neuroglancer, unmodified and in a real browser, shows the served grayscale: its pixels are our voxels."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clients import viewer_process
from tests.clients.served import BOX, INSTANCES, VOXEL_SIZE_NM, Served, serving

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("neuroglancer", "selenium") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["chromium"]
MISSING += [] if shutil.which("chromedriver") else ["chromedriver"]

pytestmark = [
    pytest.mark.clients,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

WIDTH, HEIGHT = 256, 160
PLANE = 20
"""Shown plane, counted from the first of `BOX`; the edit and both boxes of the original are on it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came out of a browser: pictures (y, x) by name, and what its console complained about."""

    pictures: Mapping[str, np.ndarray]
    complaints: tuple[str, ...]


def look(served: Served, layers: Mapping[str, str], folder: Path, timeout_s: float) -> Seen:
    """Show each layer (name to `version/instance`) with the middle of `BOX` in the middle of the picture."""
    z, y, x = ((a + b) // 2 for a, b in zip(BOX.start, BOX.stop, strict=True))
    job = {
        "server": served.url,
        "browser": BROWSER,
        "folder": str(folder),
        "layers": {name: f"dvid://{served.url}/{path}" for name, path in layers.items()},
        "size": [WIDTH, HEIGHT],
        "position": [x, y, z + PLANE - (BOX.stop[0] - BOX.start[0]) // 2 + 0.5],
        "voxel_size_nm": VOXEL_SIZE_NM,
        "timeout_s": timeout_s,
    }
    report = in_process_group([sys.executable, viewer_process.__file__], json.dumps(job), patience=100)
    # the page's own server has no icon: the only complaint of a good run
    complaints = tuple(line for line in report["complaints"] if "favicon.ico" not in line)
    pictures = {name: np.asarray(Image.open(folder / f"{name}.png"))[..., 0] for name in report["shown"]}
    return Seen(pictures, complaints)


def in_process_group(command: list[str], job: str, patience: float) -> dict[str, list[str]]:
    """Run a program that starts others; nothing of them is left when this returns."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(job, timeout=patience)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err
    report: dict[str, list[str]] = json.loads(out)
    return report


def expected(volume: np.ndarray) -> np.ndarray:
    """Return the picture of a volume: its plane, one voxel per pixel, on black."""
    plane = volume[PLANE]
    top, left = (HEIGHT - plane.shape[0]) // 2, (WIDTH - plane.shape[1]) // 2
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return picture


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
    return look(served, layers, tmp_path_factory.mktemp("pictures"), timeout_s=20)


@pytest.mark.parametrize("instance", sorted(INSTANCES))
@pytest.mark.parametrize("version", ["root", "child", "master"])
def test_pixels_are_the_voxels_of_the_version(
    served: Served, seen: Seen, instance: str, version: str
) -> None:
    assert f"{instance}-{version}" in seen.pictures, seen.complaints
    picture = seen.pictures[f"{instance}-{version}"]
    assert picture.shape == (HEIGHT, WIDTH)
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
        seen = look(served, {"raw": f"{served.root}/raw"}, tmp_path, timeout_s=6)
        paths = {path for path, _ in served.requests()}
    assert seen.pictures == {}
    assert any("blocked by CORS policy" in line for line in seen.complaints), seen.complaints
    assert paths == {"/api/repos/info"}  # the page asked, and was not allowed to read the answer
