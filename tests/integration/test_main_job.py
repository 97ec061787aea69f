"""The main job on a real volume, as a user does it: all by command line and HTTP, and every way of reading agrees.

The server holds the store the whole time; Python reads beside it.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
import zarr
from distributed import Client, LocalCluster
from PIL import Image

import dvidzarr
from dvidzarr.core.errors import BusyError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from tests.integration.cli_process import PATIENCE, Shell

pytestmark = pytest.mark.shared

SIZE_NM = {"z": 50.0, "y": 4.6, "x": 4.6}
EDIT = Box((0, 128, 192), (64, 320, 448))  # on the grid, as HTTP asks; deeper than the volume
BOTH = ("root", "child")


@dataclass(frozen=True, slots=True)
class Job:
    """A served store: UUIDs and expected voxels of the locked root and of the edited child."""

    folder: Path
    url: str
    uuids: dict[str, str]
    expected: dict[str, np.ndarray]

    def get(self, version: str, rest: str) -> bytes:
        answer = httpx.get(f"{self.url}/api/node/{self.uuids[version]}/grayscale/{rest}", timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.content


def run(shell: Shell, *words: object) -> None:
    process = shell.start(*words)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def job(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("job")
    shell, store = Shell(folder), folder / "store"
    source = shared_data / "em" / "vnc-stack1.tif"
    imaged = tifffile.imread(source)
    run(shell, "new", "repo", store, "--alias", "vnc")
    options = ("--create", "--voxel-size", "4.6,4.6,50", "--block-size", "64")
    run(shell, "ingest", store, ":master/grayscale", source, *options)
    run(shell, "commit", store, ":master", "-m", "as imaged")
    run(shell, "branch", store, ":master", "edited")
    edited = np.zeros((EDIT.stop[0], *imaged.shape[1:]), np.uint8)
    edited[: len(imaged)] = imaged
    place = tuple(slice(a, b) for a, b in zip(EDIT.start, EDIT.stop, strict=True))
    edited[place] = 255 - edited[place]
    with shell.server(store) as url:
        dag = next(iter(httpx.get(f"{url}/api/repos/info", timeout=PATIENCE).json().values()))["DAG"]["Nodes"]
        uuids = {"child" if node["Parents"] else "root": node["UUID"] for node in dag.values()}
        offset, size = ("_".join(map(str, numbers)) for numbers in EDIT.to_xyz())
        posted = httpx.post(
            f"{url}/api/node/{uuids['child']}/grayscale/raw/0_1_2/{size}/{offset}",
            content=edited[place].tobytes(),
            timeout=PATIENCE,
        )
        assert posted.status_code == 200, posted.text
        refused = httpx.post(
            f"{url}/api/node/{uuids['root']}/grayscale/raw/0_1_2/64_64_64/0_0_0",
            content=bytes(64**3),
            timeout=PATIENCE,
        )
        assert refused.status_code == 400
        assert "locked" in refused.text
        yield Job(store, url, uuids, {"root": imaged, "child": edited})


@pytest.fixture(scope="module")
def views(job: Job) -> Iterator[dict[str, VoxelView]]:
    with dvidzarr.open(job.folder, "r") as catalog:
        instance = catalog.repos[0].instance("grayscale")
        yield {name: instance.at(uuid) for name, uuid in job.uuids.items()}  # type: ignore[misc]


@pytest.mark.parametrize("name", BOTH)
def test_http(job: Job, name: str) -> None:
    expected = job.expected[name]
    depth, height, width = expected.shape
    raw = job.get(name, f"raw/0_1_2/{width}_{height}_{depth}/0_0_0")
    np.testing.assert_array_equal(np.frombuffer(raw, np.uint8).reshape(expected.shape), expected)
    for rest, plane in (
        (f"raw/xy/{width}_{height}/0_0_7/png", expected[7]),
        (f"raw/xz/{width}_{depth}/0_200_0/png", expected[:, 200]),
        (f"raw/yz/{height}_{depth}/300_0_0/png", expected[:, :, 300]),
    ):
        with Image.open(io.BytesIO(job.get(name, rest))) as image:
            np.testing.assert_array_equal(np.asarray(image), plane)


@pytest.mark.parametrize("name", BOTH)
def test_python(job: Job, views: dict[str, VoxelView], name: str) -> None:
    view, expected = views[name], job.expected[name]
    whole = tuple(slice(0, size) for size in expected.shape)
    assert view.extents == Box((0, 0, 0), expected.shape)
    array, lazy, labelled = view.array(), view.dask(), view.xarray()
    assert array.shape == lazy.shape == labelled.shape == view.shape == expected.shape
    for shown in (view[whole], array[:], lazy.compute(scheduler="threads"), labelled.values):
        np.testing.assert_array_equal(shown, expected)
    for axis, step in SIZE_NM.items():
        index = np.arange(labelled.sizes[axis])
        np.testing.assert_array_equal(labelled.coords[axis].values, index * step)
        assert labelled.coords[axis].attrs["units"] == "nanometers"


def test_cluster(job: Job, views: dict[str, VoxelView]) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for name, view in views.items():
            lazy = view.dask().rechunk((16, 256, 256))
            np.testing.assert_array_equal(client.compute(lazy).result(timeout=PATIENCE), job.expected[name])


def test_plain_zarr_from_the_folder_of_the_root(job: Job) -> None:
    (metadata,) = job.folder.glob("repos/*/data/*/versions/*/zarr.json")  # overlays have none
    deadline = time.monotonic() + 120
    while zarr.open_group(metadata.parent, mode="r").attrs["dvidzarr"]["state"] != "locked":
        assert time.monotonic() < deadline, "the locked root was not finished"
        time.sleep(0.05)
    np.testing.assert_array_equal(zarr.open_array(metadata.parent / "0", mode="r")[:], job.expected["root"])


def test_writing_beside_the_server_is_refused(job: Job) -> None:
    with dvidzarr.open(job.folder) as catalog:
        view = catalog.repos[0].instance("grayscale").at(job.uuids["child"])
        with pytest.raises(BusyError, match=job.url):
            view.write(Box((0, 0, 0), (1, 1, 1)), np.zeros((1, 1, 1), np.uint8))
        with pytest.raises(BusyError, match=job.url):
            view.array()[0, 0, 0] = 1
