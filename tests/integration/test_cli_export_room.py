"""An export that finds no room ends with one line, and leaves nothing."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.cli_process import COMMAND, PATIENCE, Shell

MOST = 1 << 20
"""Bytes that a file may have here."""
SMALL = 8 << 10
"""The same: enough for metadata, too few for a chunk."""
PLACE = ":master/gray"


@pytest.fixture
def store(shell: Shell, tmp_path: Path) -> Path:
    voxels = np.random.default_rng(1).integers(0, 256, (128, 256, 256), np.uint8)
    np.save(tmp_path / "source.npy", voxels)
    shell.ok("new", "repo", tmp_path / "store")
    shell.ok("ingest", tmp_path / "store", PLACE, tmp_path / "source.npy")
    (tmp_path / "out").mkdir()
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("x.tif", MOST),
        ("x.h5", MOST),
        ("x.npy", MOST),
        ("x.zarr", 1 << 16),
        ("x.zarr", SMALL),
        ("x.zarr", 0),
        ("x.tar", 1 << 16),
    ],
)
def test_no_room_is_said_in_one_line(shell: Shell, store: Path, name: str, most: int) -> None:
    target = store.parent / "out" / name
    words = ("export", str(store), PLACE)
    if name == "x.tar":
        words = ("kv", "export", str(store), ":master/kv")
        shell.ok("new", "instance", store, ":master", "keyvalue", "kv")
        shell.ok("kv", "put", store, ":master/kv", "key", store.parent / "source.npy")
    outcome = subprocess.run(
        [*COMMAND, *words, str(target)],
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert outcome.returncode == 1, outcome
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert name in outcome.stderr
    assert not list(target.parent.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS cannot reserve room")
def test_a_mapped_file_has_its_room_before_it_is_written(shell: Shell, store: Path) -> None:
    """Else a full disk kills the process by a signal."""
    target = store.parent / "out/x.npy"
    with shell.held("dvidzarr.cli.progress:Meter.advance", 1, "export", store, PLACE, target) as process:
        (partial,) = target.parent.glob("*/*")
        status = partial.stat()
        assert status.st_blocks * 512 >= status.st_size > MOST
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
