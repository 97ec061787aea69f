"""Labels over HTTP: boxes in their encodings, beside constant bytes; blocks of an instance stored as JPEG; size on disk."""

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
        places = boxes(plan.size, BLOCK, aligned=True)
        for words in _ENCODINGS:
            paths = [raw_path(root, box, _SEGMENTS) + words for box in places]
            who = f"dvidzarr serve, {words.partition('=')[2] or 'plain'}"
            yield [
                Case(f"GET labels {BLOCK}³ by encoding", who, over(paths, client.get), _ITEMSIZE * BLOCK**3)
            ]
        paths = [_block_path(root, box.start) for box in places]
        yield [Case(f"GET subvolblocks {BLOCK}³", "dvidzarr serve, jpeg", over(paths, client.get), BLOCK**3)]
        client.close()
        ceiling.close()


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
