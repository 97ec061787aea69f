"""An ingest that goes on after others wrote: their extents stay, its voxels win, and no source is taken for another."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import zarr

import dvidzarr
from dvidzarr.core.geometry import Box
from tests.integration.cli_process import PATIENCE, Shell

PLACE = ":master/gray"
SMALL_BRICKS = ("--memory", 16, "--workers", 1)
RNG = np.random.default_rng(1)
ONE, OTHER = (RNG.integers(1, 256, (320, 256, 256), np.uint8) for _ in range(2))

Interrupt = Callable[..., None]


@pytest.fixture(params=["path", "url"])
def store(shell: Shell, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder)
    served = shell.server(folder, "--workers", 1) if request.param == "url" else nullcontext(str(folder))
    with served as where:
        yield where


@pytest.fixture
def interrupt(shell: Shell) -> Interrupt:
    """Kill an ingest when some bricks are done."""

    def kill(*words: object) -> None:
        with shell.held("dvidzarr.cli.bricks:Journal.add", 3, "ingest", *words) as process:
            process.kill()
            process.communicate(timeout=PATIENCE)

    return kill


def test_extents_that_another_copy_made_stay(
    shell: Shell, store: str, tmp_path: Path, interrupt: Interrupt
) -> None:
    np.save(tmp_path / "one.npy", ONE)
    np.save(tmp_path / "other.npy", OTHER[:70, :80, :90])
    words = (store, PLACE, tmp_path / "one.npy", *SMALL_BRICKS)
    interrupt(*words)
    shell.ok("ingest", store, PLACE, tmp_path / "other.npy", "--offset", "300,-100,10")
    shell.ok("ingest", *words)
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        view = catalog.repos[0].instance("gray").at()
        assert view.extents == Box((0, -100, 0), (320, 256, 390))
        assert np.array_equal(view.read(Box((0, 0, 0), ONE.shape)), ONE)
        assert np.array_equal(view.read(Box((10, -100, 300), (80, -20, 390))), OTHER[:70, :80, :90])


def test_the_last_copy_wins(shell: Shell, store: str, tmp_path: Path, interrupt: Interrupt) -> None:
    """Also if an earlier, interrupted run of it had written what another copy then wrote over."""
    np.save(tmp_path / "one.npy", ONE)
    np.save(tmp_path / "other.npy", OTHER)
    words = (store, PLACE, tmp_path / "one.npy", *SMALL_BRICKS)
    interrupt(*words)
    shell.ok("ingest", store, PLACE, tmp_path / "other.npy")
    shell.ok("ingest", *words)
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        assert np.array_equal(catalog.repos[0].instance("gray").at().read(Box((0, 0, 0), ONE.shape)), ONE)


@pytest.mark.parametrize("form", [2, 3])
def test_a_zarr_is_not_taken_for_another_of_the_same_name(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt, form: int
) -> None:
    store = tmp_path / "store"
    shell.ok("new", "repo", store)
    for folder, voxels in (("a", ONE), ("b", OTHER)):
        (tmp_path / folder).mkdir()
        zarr.create_array(tmp_path / folder / "x.zarr", data=voxels, chunks=(64, 64, 64), zarr_format=form)
    monkeypatch.chdir(tmp_path / "a")
    interrupt(store, PLACE, "x.zarr", *SMALL_BRICKS)
    monkeypatch.chdir(tmp_path / "b")
    shell.ok("ingest", store, PLACE, "x.zarr", *SMALL_BRICKS)
    with dvidzarr.open(store, "r") as catalog:
        assert np.array_equal(catalog.repos[0].instance("gray").at().read(Box((0, 0, 0), ONE.shape)), OTHER)


def test_a_journal_that_was_damaged_is_begun_anew_and_in_nobodys_way(
    shell: Shell, tmp_path: Path, interrupt: Interrupt
) -> None:
    """It is not synced: after a power loss there may be zeros. Every ingest ended with an internal error."""
    store = tmp_path / "store"
    shell.ok("new", "repo", store)
    np.save(tmp_path / "one.npy", ONE)
    words = (store, PLACE, tmp_path / "one.npy", *SMALL_BRICKS)
    interrupt(*words)
    (journal,) = (shell.state / "dvidzarr/ingest").glob("*.journal")
    head, _, lines = journal.read_bytes().partition(b"\n")
    journal.write_bytes(bytes(len(head)) + b"\n" + lines)
    journal.with_name("other.journal").write_bytes(b"[1]\n0 0 0 done\n")
    shell.ok("ingest", *words)
    assert not journal.exists()
    with dvidzarr.open(store, "r") as catalog:
        assert np.array_equal(catalog.repos[0].instance("gray").at().read(Box((0, 0, 0), ONE.shape)), ONE)
