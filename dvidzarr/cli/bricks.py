"""Cutting a box into bricks on the chunk grid, copying them on a few threads, remembering which are done."""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import orjson

from dvidzarr.core.geometry import ZYX, Box

BATCH = 2048
"""Bricks per dask graph: a volume of millions must not become one graph."""


def cores() -> int:
    """Return how many threads copy by default: beyond four the disk is the limit."""
    return min(4, os.cpu_count() or 1)


def bricks(box: Box, chunk: ZYX, max_voxels: int) -> Iterator[Box]:
    """Tile a box, in z, y, x order, with boxes cut on the chunk grid of `max_voxels` or one chunk.

    Slabs along z as long as one layer of chunks fits; then rows; then pieces of rows.
    """
    span = box.chunks(chunk)
    counts = tuple(high - low for low, high in zip(span.start, span.stop, strict=True))
    steps = _steps(counts, chunk, max_voxels)
    cuts = [
        [(low * size, min(low + step, stop) * size) for low in range(start, stop, step)]
        for start, stop, step, size in zip(span.start, span.stop, steps, chunk, strict=True)
    ]
    for (z0, z1), (y0, y1), (x0, x1) in product(*cuts):
        brick = box.intersect(Box((z0, y0, x0), (z1, y1, x1)))
        if brick is not None:
            yield brick


def _steps(counts: tuple[int, ...], chunk: ZYX, max_voxels: int) -> ZYX:
    """Return how many chunks a brick has per axis."""
    one = chunk[0] * chunk[1] * chunk[2]
    row = one * counts[2]
    layer = row * counts[1]
    if layer <= max_voxels:
        return (max(1, max_voxels // layer), counts[1], counts[2])
    if row <= max_voxels:
        return (1, max(1, max_voxels // row), counts[2])
    return (1, 1, max(1, max_voxels // one))


def copy_bricks(pending: Iterable[Box], copy: Callable[[Box], None], workers: int) -> None:
    """Call `copy` for each brick on `workers` threads, through dask's scheduler.

    When one fails, or on Ctrl-C, no new brick begins and those under way are finished before this returns.
    """
    from dask.base import compute  # noqa: PLC0415 - 0.3 s, and not needed to show help
    from dask.delayed import delayed  # noqa: PLC0415

    stop = threading.Event()

    def task(brick: Box) -> None:
        if not stop.is_set():
            copy(brick)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="copy")
    try:
        rest = iter(pending)
        while batch := [delayed(task, pure=False)(brick) for brick in islice(rest, BATCH)]:
            compute(*batch, scheduler="threads", pool=pool, num_workers=workers)  # type: ignore[no-untyped-call]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a copy does, so that a later run can tell whether it is the same one.

    Attributes
    ----------
    source, target
        Identities: of content, and of instance and version.
    brick_voxels
        Size of the bricks: a resumed copy keeps it, so that its bricks are the same.
    extents
        The extents of the version before the first brick was written.
    """

    source: str
    target: str
    box: Box
    chunk: ZYX
    brick_voxels: int
    extents: Box | None

    @property
    def key(self) -> str:
        """Name of the journal: the same source to the same place."""
        return hashlib.sha256(f"{self.source}\n{self.target}\n{self.box}\n{self.chunk}".encode()).hexdigest()[
            :32
        ]


Span = tuple[int, int]
"""Numbers of records between which a brick was written: behind the first one, up to the second."""


_DONE = re.compile(rb"-?\d+( -?\d+){2}( \d+ \d+)? done")


class Journal:
    """The bricks that are done, one line each, appended when the store has acknowledged a brick.

    A lost line costs writing a brick again; a line never stands for a brick that was not acknowledged. A file
    under the user's state folder (`XDG_STATE_HOME`), since the target may be a server elsewhere.

    Parameters
    ----------
    kept
        Tells whether the store still has the records of a brick: a copy of it from before has not, nor one that lost
        its power while it was written with durability `fast`.
    """

    def __init__(
        self, plan: CopyPlan, *, fresh: bool = False, kept: Callable[[Span], bool] = lambda _span: True
    ) -> None:
        self.path = self.place(plan)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self.plan, self.done = plan, frozenset[ZYX]()
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        if lines and not _known(lines[0]):  # damaged: it says nothing about what is done
            lines = []
        if lines:
            self.plan, self.done = _parsed(plan, lines, kept)
        self._file = self.path.open("ab")
        if not lines:
            self._file.truncate(0)
            self._append(_head(plan))
        elif self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # a line torn by a crash: closed, and skipped when read
        self._overrule()

    @staticmethod
    def place(plan: CopyPlan) -> Path:
        """Return where the journal of a copy lies: a file there means that the copy is not complete."""
        return state_folder() / "ingest" / f"{plan.key}.journal"

    def add(self, brick: Box, span: Span | None = None) -> None:
        """Remember a brick, and where its records are if that is known."""
        words = map(str, (*brick.start, *(span or ()), "done"))
        with self._lock:
            self._append(" ".join(words).encode())

    def finish(self) -> None:
        """Forget all: the copy is complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep the file for a later run."""
        self._file.close()

    def _overrule(self) -> None:
        """Let interrupted copies to the same place begin anew: what they have written, this one writes over."""
        for path in self.path.parent.glob("*.journal"):
            if path == self.path:
                continue
            with suppress(FileNotFoundError), path.open("r+b") as file:  # finished meanwhile
                line = file.readline()
                head = _known(line)
                box = head.get("target") == self.plan.target and Box.of(*head["box"])
                if box and box.intersect(self.plan.box):
                    file.truncate(len(line))

    def _append(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()


def _head(plan: CopyPlan) -> bytes:
    """Return the first line of a journal."""
    before = plan.extents and (plan.extents.start, plan.extents.stop)
    head = {"brick_voxels": plan.brick_voxels, "extents": before, "source": plan.source[:200]}
    return orjson.dumps(head | {"target": plan.target, "box": (plan.box.start, plan.box.stop)})


def _known(line: bytes) -> dict[str, Any]:
    """Return what the first line of a journal says, {} if a power loss left something else."""
    try:
        head = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return head if isinstance(head, dict) else {}


def _parsed(
    plan: CopyPlan, lines: list[bytes], kept: Callable[[Span], bool]
) -> tuple[CopyPlan, frozenset[ZYX]]:
    head = orjson.loads(lines[0])
    extents = head["extents"] and Box.of(*head["extents"])
    known = CopyPlan(plan.source, plan.target, plan.box, plan.chunk, int(head["brick_voxels"]), extents)
    starts = {brick.start for brick in bricks(known.box, known.chunk, known.brick_voxels)}
    done = set()
    for line in lines[1:]:
        # torn: "0 0 64" may be the rest of "0 0 640"; or with the zeros of a power loss in it
        if not _DONE.fullmatch(line):
            continue
        z, y, x, *span = map(int, line.split()[:-1])
        if not span or kept((span[0], span[1])):
            done.add((z, y, x))
    return known, frozenset(done & starts)


def state_folder() -> Path:
    """Return the folder for what must outlive a run but belongs to no store."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "dvidzarr"
