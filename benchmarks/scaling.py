"""How cost grows with versions and chunks: `python -m benchmarks.scaling`, or the last part of `./dev bench`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console

import dvidzarr
from benchmarks import machine, plots, synthetic_store
from benchmarks.datasets import gray
from benchmarks.depth import FIRST, Chain
from benchmarks.process import Client, environment, running, serve
from benchmarks.report import RESULTS, Report, show
from benchmarks.served import raw_path
from benchmarks.timing import Case, Figure, interleave, of_samples, single
from benchmarks.volumes import BLOCK, GRAY, settings, voxels_of
from dvidzarr.core.geometry import Box
from dvidzarr.core.lineage import Lineage
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.chunkkeys import pack
from dvidzarr.storage.postings import Postings
from dvidzarr.storage.runs import Run

GROUP = "scaling"
_MEMORY = Path("/dev/shm")
"""Versions are made here by the thousand where it exists: their curves are about the engine, not about syncing."""
_DEPTHS = (1, 10, 100, 1000)
_CHUNKS = (1_000, 10_000, 100_000, 1_000_000)
_SECONDS = 0.5
_COMMITS = 20
_BRANCHES = 64
_VERSIONS = 8
_REBUILDS = 1
_OPENINGS = 3
_SETTLE_S = 600.0


def run(folder: Path, report: Report, console: Console, *, full: bool) -> None:
    """Measure all curves, print them, draw them into `benchmarks/results`."""
    counts = (*_CHUNKS, 10_000_000) if full else _CHUNKS
    with tempfile.TemporaryDirectory(
        prefix="dvidzarr-bench-", dir=_MEMORY if _MEMORY.is_dir() else folder
    ) as name:
        figures = [
            *depth_curves(Path(name), (*_DEPTHS, 10_000) if full else _DEPTHS),
            *branch_curves(Path(name), (1, 10, 156) if full else (1, 10)),
        ]
    figures += [*postings_curves(counts), *store_curves(folder, counts)]
    report.add(GROUP, figures)
    show(console, GROUP, figures)
    for path in plots.draw(figures, RESULTS):
        console.print(str(path))


def depth_curves(folder: Path, depths: Sequence[int]) -> list[Figure]:
    """Return the time of reading a chunk of the root, of commit and of new version, at several depths."""
    figures = []
    with dvidzarr.open(folder / "line", "w", settings("fast")) as catalog:
        chain = Chain.begin(catalog.create_repo("line"), gray(BLOCK).voxels)
        for depth in depths:
            chain.grow_to(depth)
            grow = Case(
                "commit and new version", f"{depth}", partial(chain.grow, write=False), calls=_COMMITS
            )
            figures += interleave([grow], _SECONDS)
        _quiet(catalog)
        views = {depth: chain.view(depth) for depth in depths}
        reads = [
            Case("read 64³ of the root", f"{depth}", partial(view.read, FIRST))
            for depth, view in views.items()
        ]
        figures += interleave(reads, _SECONDS)
    with running(*serve(folder / "line")) as server:
        client = Client(server.url)
        paths = {depth: raw_path(chain.uuids[depth], FIRST, "deep") for depth in depths}
        gets = [
            Case("GET 64³ of the root", f"{depth}", partial(client.get, path))
            for depth, path in paths.items()
        ]
        figures += interleave(gets, _SECONDS)
        info = Case(
            "GET repo info",
            f"{depths[-1] + _COMMITS}",
            partial(client.get, f"/api/repo/{chain.uuids[0]}/info"),
        )
        figures += interleave([info], _SECONDS)
        client.close()
    return figures


def branch_curves(folder: Path, rounds: Sequence[int]) -> list[Figure]:
    """Return the time of reading a chunk of the root from one of 64 branches, by the number of versions in all."""
    with dvidzarr.open(folder / "branches", "w", settings("fast")) as catalog:
        repo = catalog.create_repo("branches")
        trunk = Chain.begin(repo, gray(BLOCK).voxels)
        repo.commit(repo.root)
        tips = [
            Chain(repo, trunk.instance, trunk.small, [repo.branch(repo.root, f"branch{number}").uuid])
            for number in range(_BRANCHES)
        ]
        figures = []
        for depth in rounds:
            for tip in tips:
                tip.grow_to(depth - 1)
            _quiet(catalog)
            view = tips[-1].view(-1)
            case = Case(
                "read 64³ of the root, 64 branches",
                f"{depth * _BRANCHES}",
                partial(view.read, FIRST),
            )
            figures += interleave([case], _SECONDS)
    return figures


def _quiet(catalog: Catalog) -> None:
    """Let the work in the background, which every commit leaves, come to its end."""
    if not catalog.context.housekeeper.settle(_SETTLE_S):
        raise TimeoutError(f"the work in the background took more than {_SETTLE_S} s")


def postings_curves(counts: Sequence[int]) -> list[Figure]:
    """Return the time of look-ups and of publishing one chunk, and the memory per row, at several sizes."""
    looks, news, sizes = [], [], []
    lineage = Lineage(np.arange(_VERSIONS, dtype=np.int32), _VERSIONS - 1)
    draw = np.random.default_rng(7)
    for count in counts:
        keys = pack(synthetic_store.coords_of(0, count))
        built = Run.build(keys, synthetic_store.rows_of(count, _VERSIONS))
        postings = Postings()
        postings.load(built)
        sizes.append(single("memory per chunk version", f"{count}", _bytes(built) / count, "B"))
        some, many = (np.sort(draw.choice(keys, n)) for n in (1, 512))
        looks.append(Case("look up 1 chunk", f"{count}", partial(postings.resolve, some, lineage)))
        looks.append(Case("look up 512 chunks", f"{count}", partial(postings.resolve, many, lineage)))
        news.append(Case("publish 1 chunk", f"{count}", _Publisher(postings, count).publish, calls=2000))
    looks.sort(key=lambda case: case.name)
    return [*interleave(looks, _SECONDS / 2), *interleave(news, _SECONDS / 2), *sizes]


def _bytes(run: Run) -> int:
    return run.keys.nbytes + run.rows.nbytes


class _Publisher:
    """Publishes rows of new chunks, one at a time."""

    def __init__(self, postings: Postings, count: int) -> None:
        self._postings, self._next = postings, count

    def publish(self) -> None:
        rows = synthetic_store.rows_of(1, 1)
        rows["sequence"] = self._next = self._next + 1
        self._postings.publish(pack(synthetic_store.coords_of(self._next, 1)), rows)


def store_curves(folder: Path, counts: Sequence[int]) -> list[Figure]:
    """Return the time of opening with and without caches, the memory of it, and of writes and commits thereafter."""
    figures = []
    for count in counts:
        store = folder / f"chunks{count}"
        synthetic_store.make(store, count)
        warm = [_opened(store, "r") for _ in range(_OPENINGS)]
        figures.append(of_samples("open a store", f"{count}", [seconds for seconds, _ in warm]))
        shutil.rmtree(store / "cache")
        cold = [_opened(store, "r") for _ in range(_REBUILDS)]
        figures.append(of_samples("open without caches", f"{count}", [seconds for seconds, _ in cold]))
        figures.append(single("resident memory, opened", f"{count}", warm[0][1], "MB"))
        figures += _changes(store, count)
        shutil.rmtree(store)
    return figures


def _opened(store: Path, mode: str) -> tuple[float, float]:
    words = (sys.executable, "-P", "-m", "benchmarks.opening", str(store), mode)
    found = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    said = orjson.loads(found.stdout)
    return said["s"], said["MB"]


def _changes(store: Path, count: int) -> list[Figure]:
    """Return the time of writing one chunk and of committing in a store of many chunks."""
    with dvidzarr.open(store, "w", settings("full")) as catalog:
        repo = catalog.repos[0]
        instance = repo.instance(GRAY)
        _ = voxels_of(instance.at(repo.root)).shape  # its caches are made anew, and written
        _quiet(catalog)
        os.sync()  # else the first syncs pay for what was written and removed before
        chunk = gray(BLOCK).voxels
        uuids = [repo.root]

        def write() -> None:
            voxels_of(instance.at(uuids[-1])).write(Box((0, 0, 0), chunk.shape), chunk)

        def grow() -> None:
            repo.commit(uuids[-1])
            uuids.append(repo.new_version(uuids[-1]).uuid)

        wrote = Case("write 64³, durable", f"{count}", write, calls=_COMMITS * 2)
        committed = Case(
            "commit and new version after a write", f"{count}", grow, prepare=write, calls=_COMMITS
        )
        shaped = Case("shape of the array", f"{count}", lambda: voxels_of(instance.at(uuids[-1])).shape)
        return [figure for case in (wrote, committed, shaped) for figure in interleave([case], _SECONDS)]


def main(words: Sequence[str] | None = None) -> None:
    """Measure the curves alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--full", action="store_true", help="up to 10 000 versions and 10⁷ chunks (long)")
    parser.add_argument("--folder", type=Path, help="where stores are made; default: the temporary folder")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="dvidzarr-bench-", dir=options.folder) as name:
        report = Report(machine.facts(Path(name)))
        run(Path(name), report, Console(width=120), full=options.full)
    report.facts["load at end"] = machine.load()
    report.save(GROUP)


if __name__ == "__main__":
    main()
