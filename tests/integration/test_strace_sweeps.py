"""Each system call of a short life of a store fails, or is the last before SIGKILL: nothing acknowledged is lost.

The processes are forked from this one with everything loaded, so that only calls on the store are counted; strace is
attached before they begin. What they were told lies in shared memory, so that telling it is no system call.
"""

import mmap
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import DvidzarrError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.writing import get_document, put_document
from tests.integration.tracing import strace_refusal

ROOT_UUID, CHILD_UUID = "a" * 32, "b" * 32
AUTHOR = Author("sweep", "test")
FIRST, SECOND = Box((0, 0, 0), (8, 8, 16)), Box((0, 0, 16), (8, 8, 24))
KEY = b"key"
CALLS = {
    "write": "write",
    "pwrite64": "pwrite64",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "openat": "openat",
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat",
    "mkdir": "mkdir,mkdirat",
    "ftruncate": "ftruncate",
}
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
STARTED, DONE, FAILED = 1, 2, 3
SEEN = 50
"""Where a process tells what it saw in the locked version: numbers plus 1, 0 = it saw nothing."""
LONGEST = 400
"""No sweep is longer."""


pytestmark = [
    pytest.mark.skipif(strace_refusal() is not None, reason=str(strace_refusal())),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # nothing of the parent's threads is used
]


# --- a short life --------------------------------------------------------------------------------------------


@dataclass
class Life:
    """What a process does, step by step; `told` has one byte per step."""

    folder: Path
    told: Any
    catalog: Catalog | None = None

    @property
    def repo(self) -> Repo:
        """The repo."""
        assert self.catalog is not None, "the store did not open"
        return self.catalog.repos[0]

    def open(self) -> None:
        """Make the store."""
        overrides = {"storage.rewrite_grace_s": 0.01, "compute.threads": 1}
        self.catalog = dvidzarr.open(self.folder, "w", Settings.load(env={}, overrides=overrides))

    def make_repo(self) -> None:
        """Create the repo."""
        assert self.catalog is not None, "the store did not open"
        self.catalog.create_repo("swept", root=ROOT_UUID, author=AUTHOR)

    def make(self, name: str) -> None:
        """Create an instance."""
        self.repo.create_instance("uint8blk", name, {"BlockSize": "8,8,8"}, author=AUTHOR)

    def write(self, box: Box, number: int, version: str) -> None:
        """Write a box full of a number."""
        view: Any = self.repo.instance("gray").at(version)
        view.write(box, np.full(box.shape, number, np.uint8), AUTHOR)

    def document(self) -> None:
        """Write a document."""
        view = self.repo.instance("gray").at(ROOT_UUID)
        with view.writing() as dataset:
            put_document(dataset, view.ordinal, KEY, b"value", AUTHOR, {})

    def settle(self) -> None:
        """Let background work be done."""
        assert self.catalog is not None, "the store did not open"
        self.catalog.context.housekeeper.settle(5)

    def look(self) -> None:
        """Tell what the locked version shows."""
        if self.repo.dag.root.locked:
            view: Any = self.repo.instance("gray").at(ROOT_UUID)
            self.told[SEEN] = 1 + (number_in(view.read(FIRST)) or 0)
            self.told[SEEN + 1] = 1 + (number_in(view.read(SECOND)) or 0)

    def close(self) -> None:
        """Close the store."""
        assert self.catalog is not None, "the store did not open"
        self.catalog.close()

    def steps(self) -> list[Callable[[], object]]:
        """Return what is done."""
        return [
            self.open,
            self.make_repo,
            lambda: self.make("gray"),
            lambda: self.write(FIRST, 1, ROOT_UUID),
            lambda: self.write(FIRST, 2, ROOT_UUID),
            lambda: self.write(SECOND, 3, ROOT_UUID),
            self.document,
            lambda: self.repo.commit(ROOT_UUID, author=AUTHOR),
            lambda: self.repo.new_version(ROOT_UUID, uuid=CHILD_UUID, author=AUTHOR),
            lambda: self.write(FIRST, 4, CHILD_UUID),
            lambda: self.make("other"),
            lambda: self.repo.delete_instance("other", AUTHOR),
            self.settle,
            self.look,
            self.close,
        ]

    def run(self) -> None:
        """Do all of it; a step that is refused does not end it."""
        for number, step in enumerate(self.steps()):
            self.told[number] = STARTED
            try:
                step()
            except (DvidzarrError, OSError, sqlite3.Error, AssertionError, IndexError) as error:
                self.told[number] = FAILED
                text = repr(error).encode()[:900]
                self.told[100 : 100 + len(text)] = text
            else:
                self.told[number] = DONE


def live(wait: int, life: Life) -> NoReturn:
    """Do all of it in a forked process, which must never return into the tests, nor hang."""
    code = 1
    try:
        signal.alarm(600)
        os.read(wait, 1)
        life.run()
        code = 0
    finally:
        os._exit(code)


def run_injected(folder: Path, calls: str, fault: str, number: int) -> tuple[bytes, bool]:
    """Let a process live with a fault at the `number`-th call; return what it was told, and whether the fault struck."""
    told = mmap.mmap(-1, 4096)
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        live(wait, Life(folder / "store", told))
    log = folder / "strace"
    command = ["strace", "-f", "-o", str(log), "-p", str(child)]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}:when={number}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        assert "attached" in line, line
        os.write(go, b"!")
        _, status = os.waitpid(child, 0)
        tracer.wait(120)
    finally:
        os.close(wait)
        os.close(go)
        tracer.kill()
        tracer.communicate()
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"{calls} {fault} {number}: the process ended with {code}"
    return told[:2000], "INJECTED" in log.read_text() or code != 0


# --- what must be true afterwards ------------------------------------------------------------------------------


def after(told: bytes, *steps: tuple[int, object]) -> set[object]:
    """Return what may be there after steps that each leave a value: not refused = surely, refused = maybe."""
    allowed: set[object] = {None}
    for number, value in steps:
        if told[number] == DONE:
            allowed = {value}
        elif told[number]:
            allowed.add(value)
    return allowed


def check(folder: Path, told: bytes) -> None:
    """Open the store and look for everything."""
    if told[0] != DONE:
        return
    with dvidzarr.open(folder / "store", "w") as catalog:
        assert catalog.broken == {}
        assert [finding for finding in catalog.verify(deep=True) if finding.severity == "error"] == []
        assert bool(catalog.repos) in {bool(value) for value in after(told, (1, True))}
        for repo in catalog.repos:
            check_repo(repo, told)


def check_repo(repo: Repo, told: bytes) -> None:
    """Look at versions, instances and data."""
    assert (True if "gray" in repo.instances else None) in after(told, (2, True))
    assert (True if "other" in repo.instances else None) in after(told, (10, True), (11, None))
    assert (repo.dag.root.locked or None) in after(told, (7, True))
    child = CHILD_UUID in repo.dag.by_uuid
    assert (child or None) in after(told, (8, True))
    if "gray" not in repo.instances:
        return
    view: Any = repo.instance("gray").at(ROOT_UUID)
    assert number_in(view.read(FIRST)) in after(told, (3, 1), (4, 2))
    assert number_in(view.read(SECOND)) in after(told, (5, 3))
    for place, box in enumerate((FIRST, SECOND)):
        seen, shown = told[SEEN + place], number_in(view.read(box)) or 0
        assert seen in {0, shown + 1}, f"the locked version showed {seen - 1} and shows {shown}"
    assert get_document(view.instance.dataset, KEY, view.lineage()) in after(told, (6, b"value"))
    if child:
        below: Any = repo.instance("gray").at(CHILD_UUID)
        assert number_in(below.read(FIRST)) in after(told, (3, 1), (4, 2), (9, 4))


def number_in(voxels: np.ndarray) -> int | None:
    """Return what all voxels say, None for 0."""
    (number,) = set(voxels.ravel().tolist())
    return number or None


@pytest.fixture(scope="module", autouse=True)
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Do everything once here, so that nothing is imported in the processes."""
    folder = tmp_path_factory.mktemp("loaded")
    told = bytearray(4096)
    Life(folder / "store", told).run()
    assert set(told[: len(Life(folder, told).steps())]) == {DONE}, told[100:].rstrip(b"\0")
    check(folder, bytes(told))


def sweep(tmp_path: Path, call: str, fault: str, step: int) -> int:
    """Strike each `step`-th call, until none is left; return how many were struck."""
    struck = 0
    for number in range(1, LONGEST, step):
        folder = tmp_path / f"{call}-{number}"
        folder.mkdir()
        told, hit = run_injected(folder, CALLS[call], fault, number)
        if not hit:
            break
        struck += 1
        try:
            check(folder, told)
        except (AssertionError, DvidzarrError) as error:
            raise AssertionError(
                f"{call} {fault} number {number}: told {list(told[:15])} {told[100:].rstrip(bytes(1))!r}"
            ) from error
        shutil.rmtree(folder)
    return struck


@pytest.mark.parametrize(
    ("call", "fault"), [("pwrite64", "error=ENOSPC"), ("fsync", "error=EIO"), ("rename", "signal=SIGKILL")]
)
def test_some_failing_calls(tmp_path: Path, call: str, fault: str) -> None:
    assert sweep(tmp_path, call, fault, 9)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_every_failing_call(tmp_path: Path, call: str, fault: str) -> None:
    struck = sweep(tmp_path, call, fault, 1)
    print(f"\n{call} {fault}: {struck} runs")  # noqa: T201 - the numbers of a run
    assert struck
