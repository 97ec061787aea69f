"""What many versions cost: a chunk of the root seen from far below, and making one more version."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

import dvidzarr
from benchmarks.process import Client, running, serve
from benchmarks.served import raw_path
from benchmarks.timing import Case
from benchmarks.volumes import BLOCK, Plan, settings, voxels_of
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.repo import Repo

FIRST = Box((0, 0, 0), (BLOCK,) * 3)
"""The chunk that only the root wrote."""
_OTHER = Box((0, 0, BLOCK), (BLOCK, BLOCK, 2 * BLOCK))
_COMMITS = 30


@dataclass(slots=True)
class Chain:
    """A line of versions in which each writes one chunk; the root wrote another one too."""

    repo: Repo
    instance: Instance
    small: np.ndarray
    """What each version writes: takes little room, so that there can be thousands."""
    uuids: list[str] = field(default_factory=list)

    @staticmethod
    def begin(repo: Repo, voxels: np.ndarray) -> "Chain":
        """Create the instance and the root's chunk."""
        instance = repo.create_instance("uint8blk", "deep", {"BlockSize": ",".join([str(BLOCK)] * 3)})
        chunk = np.ascontiguousarray(voxels[:BLOCK, :BLOCK, :BLOCK])
        voxels_of(instance.at()).write(FIRST, chunk)
        return Chain(repo, instance, np.ones_like(chunk), [repo.root])

    def view(self, depth: int) -> VoxelView:
        """Return the volume at the version with that many ancestors."""
        return voxels_of(self.instance.at(self.uuids[depth]))

    def grow(self, *, write: bool = True) -> None:
        """Lock the newest version and add a child."""
        if write:
            self.view(-1).write(_OTHER, self.small)
        self.repo.commit(self.uuids[-1])
        self.uuids.append(self.repo.new_version(self.uuids[-1]).uuid)

    def grow_to(self, depth: int) -> None:
        """Add versions until the newest has `depth` ancestors."""
        while len(self.uuids) <= depth:
            self.grow()


def cases(plan: Plan) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    store = plan.folder / "deep"
    with dvidzarr.open(store, "w", settings("fast")) as catalog:
        chain = Chain.begin(catalog.create_repo("deep"), plan.data.voxels)
        for depth in plan.depths:
            chain.grow_to(depth)
            yield [_growth(chain, depth)]
        views = {depth: chain.view(depth) for depth in plan.depths}
        yield [
            Case(
                "read 64³ of the root",
                f"dvidzarr, depth {depth}",
                partial(view.read, FIRST),
                BLOCK**3,
            )
            for depth, view in views.items()
        ]
    with running(*serve(store)) as server:
        client = Client(server.url)
        paths = {depth: raw_path(chain.uuids[depth], FIRST, "deep") for depth in plan.depths}
        yield [
            Case(
                "GET 64³ of the root",
                f"dvidzarr serve, depth {d}",
                partial(client.get, path),
                BLOCK**3,
            )
            for d, path in paths.items()
        ]
        client.close()


def _growth(chain: Chain, depth: int) -> Case:
    return Case(
        "commit and new version", f"dvidzarr, depth {depth}", partial(chain.grow, write=False), calls=_COMMITS
    )
