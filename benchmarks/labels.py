"""Labels over HTTP: boxes in their encodings, beside constant bytes; blocks of an instance stored as JPEG; size on disk."""

import shutil
from collections.abc import Iterator
from functools import partial

import dvidzarr
from benchmarks.datasets import labels
from benchmarks.process import Client, running, serve
from benchmarks.served import raw_path
from benchmarks.timing import Case, Figure, single
from benchmarks.volumes import BLOCK, Plan, boxes, ingest, over, settings, voxels_of

_SEGMENTS, _JPEG = "segments", "jpeg"
_ENCODINGS = ("", "?compression=googlegzip", "?compression=lz4")
_ITEMSIZE = 8


def cases(plan: Plan) -> Iterator[list[Case] | Figure]:
    """Yield groups of cases that do the same."""
    root = _build(plan)
    stored = sum(file.stat().st_size for file in (plan.folder / _SEGMENTS).rglob("c/*/*/*"))
    yield single("labels on disk", "dvidzarr", _ITEMSIZE * plan.size**3 / stored, "times less than raw")
    with running(*serve(plan.folder / _SEGMENTS)) as server, running("benchmarks.loopback") as constant:
        client, ceiling = Client(server.url), Client(constant.url)
        for edge in (BLOCK, plan.size):
            size, places = _ITEMSIZE * edge**3, boxes(plan.size, edge, aligned=True)
            paths = [raw_path(root, box, _SEGMENTS) for box in places]
            yield [
                Case(f"GET labels {edge}³", "dvidzarr serve", over(paths, client.get), size),
                Case(f"GET labels {edge}³", "constant bytes", partial(ceiling.get, f"/{size}"), size),
            ]
        client.close()
        ceiling.close()
    yield from _encodings(plan, root)


def _encodings(plan: Plan, root: str) -> Iterator[list[Case]]:
    """Yield single blocks in their encodings: kept as they were sent, and encoded for each request."""
    places = boxes(plan.size, BLOCK, aligned=True)
    asked = {
        f"GET labels {BLOCK}³, {words.partition('=')[2] or 'plain'}": (
            [raw_path(root, box, _SEGMENTS) + words for box in places],
            _ITEMSIZE * BLOCK**3,
        )
        for words in _ENCODINGS
    } | {f"GET subvolblocks {BLOCK}³, jpeg": ([_block_path(root, box.start) for box in places], BLOCK**3)}
    twin = plan.folder / "uncached"  # a store has one writer, and both servers are to have one
    shutil.copytree(plan.folder / _SEGMENTS, twin)
    with (
        running(*serve(plan.folder / _SEGMENTS)) as first,
        running(*serve(twin, "full", "--set", "cache.chunk_cache_mb=0")) as second,
    ):
        clients = {"dvidzarr serve": Client(first.url), "dvidzarr serve, nothing kept": Client(second.url)}
        for name, (paths, size) in asked.items():
            yield [Case(name, who, over(paths, each.get), size) for who, each in clients.items()]
        for each in clients.values():
            each.close()


def _block_path(root: str, start: tuple[int, int, int]) -> str:
    z, y, x = start
    return f"/api/node/{root}/{_JPEG}/subvolblocks/{BLOCK}_{BLOCK}_{BLOCK}/{x}_{y}_{z}"


def _build(plan: Plan) -> str:
    """Make the store; return its root."""
    folder = plan.folder / _SEGMENTS
    block = ",".join([str(BLOCK)] * 3)
    with dvidzarr.open(folder, "w", settings("fast")) as catalog:
        repo = catalog.create_repo("labels")
        segments = repo.create_instance("labelblk", _SEGMENTS, {"BlockSize": block})
        real = not plan.data.name.startswith("seed")
        ingest(voxels_of(segments.at()), labels(plan.size, real=real).voxels)
        jpeg = repo.create_instance("uint8blk", _JPEG, {"BlockSize": block, "Compression": "jpeg"})
        ingest(voxels_of(jpeg.at()), plan.data.voxels)
        return repo.root
