"""The store as plain dictionaries: what every version must show, by brute force from the rules of merging."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

Coord = tuple[int, int, int]
Seen = tuple[int, Any] | None
"""(ordinal of the version that wrote it, value); the value None is a deletion, `CONFLICT` what a merge wrote, as it were.

So does a merge that shows deletions of several lines: it deleted, as it were.
"""

CONFLICT = "several values"


@dataclass
class ModelDag:
    """Parents and locks of the versions, by ordinal."""

    parents: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    locked: set[int] = field(default_factory=set)
    branches: dict[int, str] = field(default_factory=lambda: {0: ""})

    def ancestors(self, ordinal: int) -> set[int]:
        """Return a version and all that is above it."""
        found = {ordinal}
        for parent in self.parents[ordinal]:
            found |= self.ancestors(parent)
        return found


@dataclass
class Cells:
    """Versioned cells (chunks or documents): per version what it wrote itself."""

    own: dict[int, dict[Any, Any]] = field(default_factory=dict)

    def put(self, ordinal: int, key: object, value: object) -> None:
        """Write a value, or None to delete."""
        self.own.setdefault(ordinal, {})[key] = value

    def see(self, dag: ModelDag, ordinal: int, key: object) -> Seen:
        """Return what a version shows for a key."""
        if key in self.own.get(ordinal, {}):
            return ordinal, self.own[ordinal][key]
        offers = [self.see(dag, parent, key) for parent in dag.parents[ordinal]]
        return offers[0] if len(offers) == 1 else merged(dag, offers, ordinal)

    def value(self, dag: ModelDag, ordinal: int, key: object) -> Any:  # noqa: ANN401 - whatever was put
        """Return the value that a version shows, None where it shows nothing."""
        seen = self.see(dag, ordinal, key)
        return None if seen is None or seen[1] is CONFLICT else seen[1]

    def keys(self) -> set[Any]:
        """Return all keys ever written."""
        return {key for cells in self.own.values() for key in cells}


def merged(dag: ModelDag, offers: list[Seen], ordinal: int) -> Seen:
    """Return what a merge, the version `ordinal`, shows: the rules of the design one after the other, nothing clever."""
    by_origin = {seen[0]: seen for seen in offers if seen is not None}
    left = {
        origin: seen
        for origin, seen in by_origin.items()
        if not any(origin != other and origin in dag.ancestors(other) for other in by_origin)
    }
    values = [seen for seen in left.values() if seen[1] is not None]
    if len(values) == 1:
        return values[0]
    if values:
        return ordinal, CONFLICT
    return (ordinal, None) if len(left) > 1 else next(iter(left.values()), None)


@dataclass
class ModelVolume:
    """Chunks of one instance. Unversioned data lives at ordinal 0 of a DAG of its own."""

    name: str
    grid: Coord
    versioned: bool
    chunks: Cells = field(default_factory=Cells)
    documents: Cells = field(default_factory=Cells)

    def chunk(self, dag: ModelDag, ordinal: int, coord: Coord) -> np.ndarray:
        """Return a chunk, zeros where nothing is shown."""
        seen = self.chunks.value(dag, ordinal, coord)
        return np.zeros(self.grid, np.uint8) if seen is None else seen

    def write(self, dag: ModelDag, ordinal: int, low: Coord, voxels: np.ndarray) -> None:
        """Write a box; chunks covered in part keep their other voxels."""
        high = tuple(a + n for a, n in zip(low, voxels.shape, strict=True))
        for coord in covered(low, high, self.grid):
            chunk = self.chunk(dag, ordinal, coord).copy()
            for at in product(*(range(n) for n in self.grid)):
                place = tuple(c * n + i for c, n, i in zip(coord, self.grid, at, strict=True))
                if all(a <= p < b for a, p, b in zip(low, place, high, strict=True)):
                    chunk[at] = voxels[tuple(p - a for p, a in zip(place, low, strict=True))]
            self.chunks.put(ordinal, coord, chunk)

    def read(self, dag: ModelDag, ordinal: int, low: Coord, high: Coord) -> np.ndarray:
        """Return the voxels of a box that lies on the chunk grid."""
        out = np.zeros([b - a for a, b in zip(low, high, strict=True)], np.uint8)
        for coord in covered(low, high, self.grid):
            start = [c * n - a for c, n, a in zip(coord, self.grid, low, strict=True)]
            out[tuple(slice(s, s + n) for s, n in zip(start, self.grid, strict=True))] = self.chunk(
                dag, ordinal, coord
            )
        return out


def covered(low: tuple[int, ...], high: tuple[int, ...], grid: Coord) -> Iterator[Coord]:
    """Yield the chunks that a box touches."""
    yield from product(*(range(a // n, -(-b // n)) for a, b, n in zip(low, high, grid, strict=True)))  # type: ignore[misc]
