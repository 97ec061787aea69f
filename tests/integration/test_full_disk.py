"""A disk that is full refuses requests cleanly, loses nothing, and works again once there is space, without a restart.

Runs as a script inside a mount namespace of its own, on a small tmpfs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import NoSpaceError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.view import View
from dvidzarr.storage.writing import get_document, put_document

ROOT = Path(__file__).resolve().parents[2]
AUTHOR = Author("full", "test")
SIZE = 32
"""Edge of a box of voxels that do not compress."""


def noise(number: int) -> np.ndarray:
    """Return a box of one request."""
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, SIZE), np.uint8)


def value(number: int, length: int) -> bytes:
    """Return a document of one request."""
    return np.random.default_rng(number).bytes(length)


def box(number: int) -> Box:
    """Return where a request writes."""
    return Box((0, 0, number * SIZE), (SIZE, SIZE, (number + 1) * SIZE))


def put(view: View, number: int, length: int) -> None:
    """Write a document."""
    with view.writing() as dataset:
        put_document(dataset, view.ordinal, b"%d" % number, value(number, length), AUTHOR, {})


def fill(write: Callable[[int], None]) -> int:
    """Write until the disk is full, and then some more; return how many requests were answered."""
    for number in range(10_000):
        try:
            write(number)
        except NoSpaceError:
            for _ in range(3):
                with pytest.raises(NoSpaceError):
                    write(number)
            return number
    raise AssertionError("the disk never was full")


def check_all(view: Any, voxels: int, documents: int, length: int) -> None:  # noqa: ANN401 - a voxel view
    """Look for all that was answered, and for nothing else."""
    for number in range(voxels):
        assert np.array_equal(view.read(box(number)), noise(number)), f"box {number}"
    assert not view.read(box(voxels)).any(), "a refused request shows"
    for number in range(documents):
        found = get_document(view.instance.dataset, b"%d" % number, view.lineage())
        assert found == value(number, length), f"document {number}"
    assert get_document(view.instance.dataset, b"%d" % documents, view.lineage()) is None


def errors(catalog: Catalog) -> list[Any]:
    """Return what verify finds wrong."""
    return [finding for finding in catalog.verify(deep=True) if finding.severity == "error"]


def live(folder: Path, kind: str) -> None:
    """Fill the disk, make room, go on; then open the store again."""
    filler, length = folder / "filler", 3000 if kind == "logged" else 100_000
    with dvidzarr.open(folder / "store", "w") as catalog:
        instance = catalog.create_repo("full").create_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
        view: Any = instance.at()
        filler.write_bytes(bytes(1 << 20))
        write = (
            (lambda n: view.write(box(n), noise(n), AUTHOR))
            if kind == "voxels"
            else (lambda n: put(view, n, length))
        )
        done = fill(write)
        counts = (done, 0) if kind == "voxels" else (0, done)
        assert done > 2, f"only {done} requests fitted"
        check_all(view, *counts, length)
        filler.unlink()
        write(done)
        counts = (done + 1, 0) if kind == "voxels" else (0, done + 1)
        check_all(view, *counts, length)
        assert errors(catalog) == []
    with dvidzarr.open(folder / "store", "w") as catalog:
        check_all(catalog.repos[0].instance("gray").at(), *counts, length)
        assert errors(catalog) == []


def nearly(folder: Path, _: str) -> None:
    """Leave less room than a log writes ahead: what fits is taken, and zeros take no room from anybody."""
    filler, large, small = folder / "filler", 60_000, 20_000
    with dvidzarr.open(folder / "store", "w") as catalog:
        view: Any = catalog.create_repo("full").create_instance("uint8blk", "gray").at()
        for number in range(14):
            put(view, number, large)
    with dvidzarr.open(folder / "store", "w") as catalog:  # it was closed: nothing is written ahead
        view = catalog.repos[0].instance("gray").at()
        log = folder / "store" / view.instance.prefix / "log/00000001.log"
        with filler.open("wb", buffering=0) as file:
            with suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            os.truncate(filler, (filler.stat().st_size - 100_000) // 4096 * 4096)
        for number in range(14, 18):
            put(view, number, small)
        assert log.stat().st_size == view.instance.dataset.log.cursor.offset
        with pytest.raises(NoSpaceError):
            put(view, 18, large)
        filler.unlink()
        put(view, 18, large)
        for number, length in [(0, large), (13, large), (14, small), (17, small), (18, large)]:
            assert get_document(view.instance.dataset, b"%d" % number, view.lineage()) == value(
                number, length
            )
        assert errors(catalog) == []


def fresh(folder: Path, _: str) -> None:
    """Open instances for the first time when nothing is left: their first use is refused, as any other."""
    filler = folder / "filler"
    kinds = ("uint8blk", "labelblk", "keyvalue", "roi")
    with dvidzarr.open(folder / "store", "w") as catalog:
        repo = catalog.create_repo("full")
        for kind in kinds:
            repo.create_instance(kind, kind)
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for kind in kinds:
            with pytest.raises(NoSpaceError):
                _ = repo.instance(kind).dataset
        filler.unlink()
        for kind in kinds:
            _ = repo.instance(kind).dataset
        assert errors(catalog) == []


def _unusable() -> str | None:
    """Return why nothing can be mounted here, None if it can."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    tried = subprocess.run(command, capture_output=True, check=False)
    return None if tried.returncode == 0 else f"no file system can be mounted: {tried.stderr.decode()[:200]}"


_REASON = _unusable()


@pytest.mark.skipif(_REASON is not None, reason=str(_REASON))
@pytest.mark.parametrize("kind", ["voxels", "logged", "blob", "nearly", "fresh"])
def test_full_disk(kind: str, tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=3m none {tmp_path} && exec {sys.executable} {__file__} {tmp_path} {kind}"
    )
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]


if __name__ == "__main__":
    {"nearly": nearly, "fresh": fresh}.get(sys.argv[2], live)(Path(sys.argv[1]), sys.argv[2])
