"""The main job on a real volume: ingest, commit, branch, edit, serve; all ways of reading agree."""

import io
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import dvidzarr
from dvidzarr.core.geometry import Box

pytestmark = pytest.mark.shared

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "dvidzarr.cli.main"]
VOXEL_SIZE_NM = (4.6, 4.6, 50.0)
EDIT = Box((3, 100, 200), (17, 400, 333))  # aligned to nothing
EDITED = tuple(slice(start, stop) for start, stop in zip(EDIT.start, EDIT.stop, strict=True))
VERSIONS = ("root", "child")


def command(*words: object) -> None:
    done = subprocess.run(
        [*RUN, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def serving(store: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([*RUN, "serve", str(store), "--port", str(port)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            try:
                httpx.get(f"{url}/api/server/types").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        assert process.wait(timeout=40) == 0


@dataclass(frozen=True, slots=True)
class Served:
    """A store with a locked root and an edited child, held by a running server."""

    path: Path
    url: str
    uuids: dict[str, str]
    expected: dict[str, np.ndarray]

    @contextmanager
    def view(self, name: str) -> Iterator[Any]:
        with dvidzarr.open(self.path, mode="r") as catalog:
            yield catalog.repos[0].instance("grayscale").at(self.uuids[name])

    def get(self, name: str, rest: str) -> bytes:
        answer = httpx.get(f"{self.url}/api/node/{self.uuids[name]}/grayscale/{rest}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.content


@pytest.fixture(scope="module")
def served(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("main job") / "store"
    source = shared_data / "em" / "vnc-stack1.tif"
    size = ",".join(map(str, VOXEL_SIZE_NM))
    command("new", "repo", path, "--alias", "vnc")
    command("ingest", path, ":master/grayscale", source, "--voxel-size", size)
    command("commit", path, ":master", "-m", "as imaged")
    command("newversion", path, ":master")
    imaged = tifffile.imread(source)
    edited = imaged.copy()
    edited[EDITED] = 255 - edited[EDITED]
    with dvidzarr.open(path, mode="a") as catalog:
        repo = catalog.repos[0]
        uuids = {"root": repo.root, "child": repo.resolve(":master").uuid}
        view = repo.instance("grayscale").at(uuids["child"])
        view.write(EDIT, 255 - view.read(EDIT))
    with serving(path) as url:
        yield Served(path, url, uuids, {"root": imaged, "child": edited})


@pytest.mark.parametrize("name", VERSIONS)
def test_raw_over_http(served: Served, name: str) -> None:
    expected = served.expected[name]
    depth, height, width = expected.shape
    raw = served.get(name, f"raw/0_1_2/{width}_{height}_{depth}/0_0_0")
    np.testing.assert_array_equal(np.frombuffer(raw, "u1").reshape(expected.shape), expected)


@pytest.mark.parametrize("name", VERSIONS)
def test_slices_over_http(served: Served, name: str) -> None:
    expected = served.expected[name]
    depth, height, width = expected.shape
    for rest, plane in (
        (f"raw/0_1/{width}_{height}/0_0_9/png", expected[9]),
        (f"raw/xz/{width}_{depth}/0_250_0/png", expected[:, 250]),
        (f"raw/yz/{height}_{depth}/300_0_0/png", expected[:, :, 300]),
    ):
        with Image.open(io.BytesIO(served.get(name, rest))) as image:
            np.testing.assert_array_equal(np.asarray(image), plane)


@pytest.mark.parametrize("name", VERSIONS)
def test_views(served: Served, name: str) -> None:
    expected = served.expected[name]
    depth, height, width = expected.shape
    with served.view(name) as view:
        np.testing.assert_array_equal(view.read(Box((0, 0, 0), expected.shape)), expected)
        np.testing.assert_array_equal(view[0:depth, 0:height, 0:width], expected)
        np.testing.assert_array_equal(view.array()[:depth, :height, :width], expected)
        assert view.extents == Box((0, 0, 0), expected.shape)


@pytest.mark.parametrize("name", VERSIONS)
def test_dask_threads_and_xarray(served: Served, name: str) -> None:
    expected = served.expected[name]
    depth, height, width = expected.shape
    with served.view(name) as view:
        lazy = view.dask()[:depth, :height, :width]
        np.testing.assert_array_equal(lazy.compute(scheduler="threads"), expected)
        labelled = view.xarray()[:depth, :height, :width]
        np.testing.assert_array_equal(labelled.values, expected)
        for axis, step in zip(labelled.dims, reversed(VOXEL_SIZE_NM), strict=True):
            np.testing.assert_allclose(np.diff(labelled.coords[axis].values), step)


@pytest.mark.slow
def test_dask_processes(served: Served) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for name in VERSIONS:
            expected = served.expected[name]
            with served.view(name) as view:
                lazy = view.dask()[: len(expected)]
                means = client.compute(lazy.mean(axis=(1, 2))).result(timeout=120)
                np.testing.assert_allclose(means, expected.mean(axis=(1, 2)))


def test_plain_zarr_from_the_folder(served: Served) -> None:
    expected = served.expected["root"]
    (metadata,) = served.path.glob("repos/*/data/*/versions/*/zarr.json")
    deadline = time.monotonic() + 30
    while zarr.open_group(metadata.parent, mode="r").attrs["dvidzarr"]["state"] != "locked":
        assert time.monotonic() < deadline, "the locked root was not finished"
        time.sleep(0.1)
    array = zarr.open_array(metadata.parent / "0", mode="r")
    np.testing.assert_array_equal(array[: len(expected)], expected)


def test_edited_voxels_only(served: Served) -> None:
    changed = served.expected["root"] != served.expected["child"]
    outside = np.ones_like(changed)
    outside[EDITED] = False
    assert changed.any()
    assert not changed[outside].any()
