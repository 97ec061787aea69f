"""Forks of a process that has a store open (`multiprocessing` on Linux) read, and cannot harm what it writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORKED = """
import os, sys, warnings
import numpy as np
import dvidzarr
from dvidzarr.core.errors import DvidzarrError

warnings.simplefilter("ignore")  # a fork of a process with threads
store = dvidzarr.open(sys.argv[1])
repo = store.create_repo()
gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "64,64,64"})
other = repo.create_instance("uint8blk", "other")
notes = repo.create_instance("keyvalue", "notes").at()
notes["a"] = b"1"
view = gray.at()
voxels = np.random.default_rng(1).integers(1, 255, (256, 256, 128), np.uint8)
view[0:256, 0:256, 0:128] = voxels
assert (view[...] == voxels).all()  # threads are alive

def child():
    assert (view[...] == voxels).all()
    assert (view.dask()[3:200].compute() == voxels[3:200]).all()
    assert (view.array()[3:200] == voxels[3:200]).all()
    for action in (
        lambda: repo.create_instance("roi", "regions"),
        lambda: repo.commit(view.version),
        lambda: view.write_blocks(np.zeros((1, 3), int), np.zeros((1, 64, 64, 64), np.uint8)),
        lambda: gray.set_tags({"a": "b"}),
        lambda: view.__setitem__((0, 0, 0), 1),
        lambda: other.at()[0, 0, 0],
        lambda: store.create_repo(),
        lambda: store.blobs.put(b"abc"),
        lambda: notes["a"],  # the parent goes on writing into the pages that its SQLite would look at here
    ):
        try:
            action()
        except DvidzarrError as error:
            assert "this one is a fork" in str(error), error
        else:
            raise AssertionError("it was done")
    with dvidzarr.open(sys.argv[1], "r") as anew:
        assert (anew.repos[0].instance("gray").at()[...] == voxels).all()
        assert anew.repos[0].instance("notes").at()["a"] == b"1"
    store.close()

if not (pid := os.fork()):
    code = 1
    try:
        child()
        code = 0
    finally:
        if code:
            import traceback
            traceback.print_exc()
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
view[0, 0, 0] = 255
assert b'"clean":false' in open(f"{sys.argv[1]}/lock", "rb").read()

hold, wait = os.pipe()
if not (pid := os.fork()):
    os.close(wait)
    os.read(hold, 1)
    os._exit(0)
store.close()
with dvidzarr.open(sys.argv[1], "w") as again:  # though the fork still lives
    assert not [found for found in again.verify(deep=True) if found.severity == "error"]
    assert again.repos[0].instance("gray").at()[0, 0, 0] == 255
os.close(wait)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_fork_reads_and_leaves_the_store_to_its_parent(tmp_path: Path) -> None:
    """It had its own idea of where the logs end: what it wrote damaged them."""
    command = [sys.executable, "-c", FORKED, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
