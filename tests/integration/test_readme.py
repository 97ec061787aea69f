"""The commands of the README do what it says."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
import zarr

ROOT = Path(__file__).resolve().parents[2]


def block(heading: str, language: str) -> str:
    """Return the first code block of a language below a heading."""
    text = (ROOT / "README.md").read_text().split(heading, 1)[1]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, heading
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a stack of images and a store as the README says."""
    folder = tmp_path_factory.mktemp("read me")
    voxels = np.random.default_rng(3).integers(1, 255, (70, 530, 520), np.uint8)
    tifffile.imwrite(folder / "stack.tif", voxels)
    command = folder / "bin" / "dvidzarr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dvidzarr.cli.main "$@"\n')
    command.chmod(0o755)
    shell(folder, block("### Bring a volume in", "sh"))
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(folder / "state"),  # not what the person has who runs this
    }


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(folder: Path, script: str) -> str:
    return run(folder, "sh", "-euc", script)


@pytest.mark.parametrize(
    "heading", ["### Python, dask, xarray", "### Keys and values in Python", "### Events"]
)
def test_python(folder: Path, heading: str) -> None:
    run(folder, sys.executable, "-c", block(heading, "python"))


def test_branch_and_merge(folder: Path) -> None:
    script = block("### Branch and merge", "sh")
    said = shell(folder, f"mkdir branched\ncd branched\ndvidzarr new repo ./store\n{script}")
    assert "slice-10  1 | 2" in said
    assert said.splitlines()[-1] == "looks good"


def test_plain_zarr(folder: Path) -> None:
    (metadata,) = folder.glob("store/repos/*/data/*/versions/*/zarr.json")
    array = zarr.open_array(metadata.parent / "0", mode="r")
    np.testing.assert_array_equal(array[:70, :530, :520], tifffile.imread(folder / "stack.tif"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_http(folder: Path, free_port: int) -> None:
    script = block("### HTTP, as DVID", "sh").replace("8000", str(free_port)).replace("curl", "curl -sf")
    serve, *requests = script.splitlines()
    process = subprocess.Popen(serve.split(), cwd=folder, env=environment(folder))
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{free_port}/api/load", timeout=120)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)
        shell(folder, f"dvidzarr newversion http://127.0.0.1:{free_port} :master || :")
        shell(folder, "\n".join(requests))
    finally:
        process.terminate()
        process.wait(timeout=120)
    assert (folder / "slice.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "block.raw").stat().st_size == 64**3
