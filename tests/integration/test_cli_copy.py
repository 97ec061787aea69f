"""Ingest, export and demo: the voxels arrive, on a path and over HTTP, also after an interruption."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr

import dvidzarr
from dvidzarr.cli.synthetic import Synthetic
from dvidzarr.core.geometry import Box
from tests.integration.cli_process import PATIENCE, Shell

ROOT = "28841c8277e044a7b187dda03e18da13"
VOLUME = np.random.default_rng(3).integers(1, 256, (70, 90, 130), np.uint8)
LARGE = np.random.default_rng(4).integers(0, 256, (256, 512, 512), np.uint8)
SMALL_BRICKS = ("--memory", 16, "--workers", 1)


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Iterator[str]:
    shell.ok("new", "repo", tmp_path / "store", "--root", ROOT)
    if request.param == "path":
        yield str(tmp_path / "store")
    else:
        with shell.server(tmp_path / "store") as url:
            yield url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "volume.npy", VOLUME)
    return tmp_path / "volume.npy"


def exported(shell: Shell, store: str, place: str, folder: Path, *words: object) -> np.ndarray:
    target = folder / "exported.npy"
    shell.ok("export", store, place, target, "--overwrite", *words)
    return np.load(target)


def test_ingest_and_export(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    shell.ok("ingest", store, ":master/gray", source, "--voxel-size", "4.6,4.6,50", "--offset", "-10,20,64")
    (repo,) = json.loads(shell.ok("repos", store, "--json"))
    assert repo["instances"] == [
        {
            "name": "gray",
            "type_name": "uint8blk",
            "extents": {"start": [64, 20, -10], "stop": [134, 110, 120]},
        }
    ]
    assert np.array_equal(exported(shell, store, ":master/gray", tmp_path), VOLUME)
    wide = exported(shell, store, ":master/gray", tmp_path, "--box", "-64,0,64:128,128,192")
    assert np.array_equal(wide[:70, 20:110, 54:184], VOLUME)
    assert wide.sum(dtype=int) == VOLUME.sum(dtype=int)


def test_formats(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    shell.ok("ingest", store, f"{ROOT}/gray", source, "--voxel-size", "4,5,50", "--block-size", "32")
    box = ("--box", "3,0,1:130,77,69")
    wanted = VOLUME[1:69, :77, 3:]
    for name in ("out.tif", "out.h5", "out.zarr", "out.npy"):
        shell.ok("export", store, f"{ROOT}/gray", tmp_path / name, *box)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), wanted)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert len(file.pages) == len(wanted)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["volume"], wanted)
        assert file["volume"].attrs["voxel_size_xyz"].tolist() == [4, 5, 50]
        assert file["volume"].attrs["offset_xyz"].tolist() == [3, 0, 1]
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert np.array_equal(group["0"][:], wanted)
    (scale,) = group.attrs["ome"]["multiscales"]
    assert scale["datasets"][0]["coordinateTransformations"][0]["scale"] == [50, 5, 4]
    for name in ("out.tif", "out.h5", "out.zarr", "out.npy"):
        shell.ok("ingest", store, f"{ROOT}/from-{name[4:]}", tmp_path / name)
        assert np.array_equal(exported(shell, store, f"{ROOT}/from-{name[4:]}", tmp_path), wanted)


def test_ids_become_labels(shell: Shell, store: str, tmp_path: Path) -> None:
    ids = VOLUME.astype(np.uint32) * 70_000
    np.save(tmp_path / "ids.npy", ids)
    shell.ok("ingest", store, f"{ROOT}/cells", tmp_path / "ids.npy", "--type", "labelblk")
    (repo,) = json.loads(shell.ok("repos", store, "--json"))
    assert repo["instances"][0]["type_name"] == "labelblk"
    # over HTTP the extents of labels are those of whole blocks: DVID has no request that sets them
    shown = exported(shell, store, f"{ROOT}/cells", tmp_path, "--box", "0,0,0:130,90,70")
    assert np.array_equal(shown, ids)
    np.save(tmp_path / "signed.npy", ids.astype(np.int32))
    assert "int32" in shell.fails("ingest", store, f"{ROOT}/cells", tmp_path / "signed.npy")


def test_border_blocks_keep_what_is_around(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    shell.ok("ingest", store, f"{ROOT}/gray", source)
    np.save(tmp_path / "patch.npy", np.zeros((5, 6, 7), np.uint8))
    shell.ok("ingest", store, f"{ROOT}/gray", tmp_path / "patch.npy", "--offset", "60,61,62")
    wanted = VOLUME.copy()
    wanted[62:67, 61:67, 60:67] = 0
    assert np.array_equal(exported(shell, store, f"{ROOT}/gray", tmp_path), wanted)


def test_a_child_version_is_ingested_apart(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    shell.ok("ingest", store, f"{ROOT}/gray", source)
    shell.ok("commit", store, ROOT)
    assert "locked" in shell.fails("ingest", store, f"{ROOT}/gray", source)
    child = shell.ok("newversion", store, ROOT)
    np.save(tmp_path / "other.npy", 255 - VOLUME)
    shell.ok("ingest", store, f"{child}/gray", tmp_path / "other.npy")
    assert np.array_equal(exported(shell, store, f"{ROOT}/gray", tmp_path), VOLUME)
    assert np.array_equal(exported(shell, store, f"{child}/gray", tmp_path), 255 - VOLUME)


def test_what_does_not_fit_is_refused(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((4, 4, 4), np.float64))
    assert "float64" in shell.fails("ingest", store, f"{ROOT}/gray", tmp_path / "wide.npy")
    shell.ok("ingest", store, f"{ROOT}/gray", source)
    line = shell.fails("ingest", store, f"{ROOT}/gray", tmp_path / "wide.npy")
    assert "float64" in line
    assert "uint8" in line
    assert "--no-create" in shell.fails("ingest", store, f"{ROOT}/new", source, "--no-create")
    assert "no source at" in shell.fails("ingest", store, f"{ROOT}/new", tmp_path / "absent.tif")
    shell.ok("new", "instance", store, ROOT, "uint8blk", "void")
    assert "empty" in shell.fails("export", store, f"{ROOT}/void", tmp_path / "void.tif")


def test_an_export_that_fails_leaves_nothing(shell: Shell, store: str, source: Path, tmp_path: Path) -> None:
    shell.ok("ingest", store, f"{ROOT}/gray", source)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "kept.npy").write_bytes(b"mine")
    assert "--overwrite" in shell.fails("export", store, f"{ROOT}/gray", folder / "kept.npy")
    assert "must end in" in shell.fails("export", store, f"{ROOT}/gray", folder / "x.docx")
    assert "no folder" in shell.fails("export", store, f"{ROOT}/gray", folder / "absent" / "x.npy")
    assert [(item.name, item.read_bytes()) for item in folder.iterdir()] == [("kept.npy", b"mine")]


def test_a_replaced_export_is_never_half_there(
    shell: Shell, store: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Zarr that a kill has removed in part would read as zeros."""
    target = tmp_path / "out.zarr"

    def interrupted(folder: Path) -> None:
        (folder / "0/zarr.json").unlink()
        raise OSError("killed")

    shell.ok("ingest", store, f"{ROOT}/gray", source)
    shell.ok("export", store, f"{ROOT}/gray", target)
    before = zarr.open_array(target, path="0", mode="r")[:]
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    assert "killed" in shell.fails("export", store, f"{ROOT}/gray", target, "--overwrite")
    assert np.array_equal(zarr.open_array(target, path="0", mode="r")[:], before)


def test_an_export_that_cannot_be_put_in_place_leaves_the_old_one(
    shell: Shell, store: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "out", Path.rename
    folder.mkdir()

    def failing(path: Path, target: Path) -> Path:
        if "unfinished" in path.name:
            raise OSError("no way")
        return rename(path, target)

    shell.ok("ingest", store, f"{ROOT}/gray", source)
    shell.ok("export", store, f"{ROOT}/gray", folder / "out.zarr")
    before = zarr.open_array(folder / "out.zarr", path="0", mode="r")[:]
    monkeypatch.setattr(Path, "rename", failing)
    assert "no way" in shell.fails("export", store, f"{ROOT}/gray", folder / "out.zarr", "--overwrite")
    assert [item.name for item in folder.iterdir()] == ["out.zarr"]
    assert np.array_equal(zarr.open_array(folder / "out.zarr", path="0", mode="r")[:], before)


BEFORE_A_BRICK_IS_JOURNALLED = "dvidzarr.cli.bricks:Journal.add"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_ingest_goes_on(
    shell: Shell, store: str, tmp_path: Path, number: signal.Signals
) -> None:
    np.save(tmp_path / "large.npy", LARGE)
    words = ("ingest", store, f"{ROOT}/gray", tmp_path / "large.npy", "--offset", "0,64,0", *SMALL_BRICKS)
    for count in (3, 4):
        with shell.held(BEFORE_A_BRICK_IS_JOURNALLED, count, *words) as process:
            process.send_signal(number)
            _, err = process.communicate(timeout=PATIENCE)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "run the same command again" in err
            assert "Traceback" not in err
    outcome = shell.run(*words)
    assert outcome.code == 0, outcome
    assert "was done before" in outcome.err
    assert np.array_equal(exported(shell, store, f"{ROOT}/gray", tmp_path), LARGE)
    assert not list(shell.state.glob("dvidzarr/ingest/*"))
    folder = tmp_path / "store"
    records = [
        json.loads(line) for line in shell.ok("log", "show", folder, ROOT, "gray", "--json").splitlines()
    ]
    assert 16 <= sum(record["kind"] == "chunks" for record in records) <= 18  # a brick a kill, at most, twice


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_what_the_store_lost_after_an_interruption_is_copied_again(
    shell: Shell, tmp_path: Path, durability: str
) -> None:
    """A copy of the store from before may be put back; with "fast", the power may have failed."""
    folder, before = tmp_path / "store", tmp_path / "before"
    store = str(folder)
    np.save(tmp_path / "large.npy", LARGE)
    shell.env["DVIDZARR_STORAGE_DURABILITY"] = durability
    shell.env["DVIDZARR_STORAGE_FLUSH_INTERVAL_S"] = "1000"
    shell.ok("new", "repo", store, "--root", ROOT)
    shell.ok("new", "instance", store, ROOT, "uint8blk", "gray", "--set", "BlockSize=64,64,64")
    shutil.copytree(folder, before)
    words = ("ingest", store, f"{ROOT}/gray", tmp_path / "large.npy", *SMALL_BRICKS)
    with shell.held(BEFORE_A_BRICK_IS_JOURNALLED, 4, *words) as process:
        process.kill()
        process.communicate(timeout=PATIENCE)
    if durability == "full":
        shutil.rmtree(folder)
        before.rename(folder)
    else:
        (journal,) = shell.state.glob("dvidzarr/ingest/*")
        done = journal.read_text().splitlines()[1].split()  # the first brick: z, y, x, ...
        z, y, x = (int(at) // 64 for at in done[:3])
        (lost,) = folder.rglob(f"c/{z}/{y}/{x}")
        lost.unlink()
    shell.ok(*words)
    assert np.array_equal(exported(shell, store, f"{ROOT}/gray", tmp_path), LARGE)


def test_demo(shell: Shell, tmp_path: Path) -> None:
    store, labels = tmp_path / "store", tmp_path / "labels.npy"
    shell.ok("demo", store, "--size", "100,80,70", "--seed", 5, "--labels", labels)
    box = Box((0, 0, 0), (70, 80, 100))
    with dvidzarr.open(store, mode="r") as catalog:
        (repo,) = catalog.repos
        instance = repo.instance("grayscale")
        wanted = Synthetic(5).grayscale(box)
        assert np.array_equal(instance.at(repo.root).read(box), wanted)
        assert instance.at(repo.root).extents == box
        middle = Box((0, 0, 0), (64, 64, 64))
        for ref in (":master", ":smoothed"):
            assert not np.array_equal(instance.at(ref).read(box), wanted)
            assert instance.at(ref).read(middle).any()
            assert instance.at(ref).extents == box
        assert [version.locked for version in repo.dag] == [True, False, False]
    assert np.array_equal(np.load(labels), Synthetic(5).labels(box))
    assert "already" in shell.fails("demo", store, "--size", "10")


@pytest.mark.parametrize("name", ["out.tif", "out.h5", "out.zarr"])
def test_an_interrupted_export_leaves_nothing(shell: Shell, tmp_path: Path, name: str) -> None:
    store, folder = tmp_path / "store", tmp_path / "out"
    folder.mkdir()
    np.save(tmp_path / "large.npy", LARGE)
    shell.ok("new", "repo", store, "--root", ROOT)
    shell.ok("ingest", store, f"{ROOT}/gray", tmp_path / "large.npy")
    words = ("export", store, f"{ROOT}/gray", folder / name, "--memory", 16)
    with shell.held("dvidzarr.cli.progress:Meter.advance", 5, *words) as process:
        assert list(folder.iterdir())
        assert not (folder / name).exists()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(folder.iterdir())


MEASURED = """
import sys
from dvidzarr.cli.main import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_memory_stays_bounded(shell: Shell, tmp_path: Path) -> None:
    store, source = tmp_path / "store", tmp_path / "huge.npy"
    volume = np.lib.format.open_memmap(source, "w+", np.uint8, (512, 1024, 1024))
    for low in range(0, 512, 64):
        volume[low : low + 64] = low // 2
    del volume
    shell.ok("new", "repo", store, "--root", ROOT)
    for words in (
        ("ingest", store, f"{ROOT}/gray", source, "--memory", "64"),
        ("export", store, f"{ROOT}/gray", tmp_path / "out.npy", "--memory", "64"),
    ):
        command = (sys.executable, "-c", MEASURED, *map(str, words))
        env = shell.env | {"DVIDZARR_CACHE_CHUNK_CACHE_MB": "16", "DVIDZARR_COMPUTE_THREADS": "4"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 400 * 1024  # KiB, of which Python and its libraries are near 150 MiB


@pytest.mark.parametrize("type_name", ["keyvalue", "roi", "float32blk"])
def test_an_instance_that_cannot_take_the_source_is_not_made(
    shell: Shell, store: str, source: Path, type_name: str
) -> None:
    line = shell.fails("ingest", store, ":master/gray", source, "--type", type_name)
    assert "'gray'" in line
    assert json.loads(shell.ok("repos", store, "--json"))[0]["instances"] == []
