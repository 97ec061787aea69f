"""EM-like volumes with matching labels, of any size, from a seed.

Cells are the regions of a power diagram (Aurenhammer 1987) of jittered grid seeds in warped space; columns of
seeds joined along hashed axes make neurites. All is a function of seed and position: a box is the same
however it is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dvidzarr.cli.lattice import Grid, grain, hashed, smooth, uniform
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box

TileMaker = Callable[[ZYX], np.ndarray]

TILE = 32
SPACING = 46.0
"""Distance of cell seeds in voxels of 8 nm: neurites of about 0.4 µm."""
REACH = 2
"""Cells beyond a tile whose seeds can be nearest to a voxel in it."""
COLUMN = 4
"""Cells in a column that may be one neurite."""
DEEP = 5.0
"""Distance to a membrane beyond which nothing depends on it; larger ones would differ between tiles."""
MARGIN = 2 * DEEP * 2 * SPACING
"""How much farther (squared) than the nearest a seed may be and still lie within `DEEP` of a voxel."""


@dataclass(frozen=True, slots=True)
class Cells:
    """What the diagram says of each voxel of a tile (flat, C order).

    Attributes
    ----------
    label : uint64
        Cell, never 0.
    membrane : float32
        Distance to the nearest other cell in voxels, at most `DEEP`.
    place : float32, shape (3, n)
        Vector from the nearest seed, along its neurite first.
    kind : uint64
        Hash of the seed: what lies around it.
    """

    label: np.ndarray
    membrane: np.ndarray
    place: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A volume without end.

    Attributes
    ----------
    seed
        Volumes of different seeds are unrelated.
    voxel_size_xyz
        In nanometres; a large z makes thick sections.
    """

    seed: int = 0
    voxel_size_xyz: tuple[float, float, float] = (8.0, 8.0, 8.0)

    def __post_init__(self) -> None:
        if not all(1 <= size <= 200 for size in self.voxel_size_xyz):
            raise InvalidInputError(f"voxel size {self.voxel_size_xyz} is not between 1 and 200 nm")

    def grayscale(self, box: Box) -> np.ndarray:
        """Return the image in a box, uint8 (z, y, x)."""
        return self._tiled(box, np.dtype(np.uint8), self._gray_tile)

    def labels(self, box: Box) -> np.ndarray:
        """Return the cell of each voxel in a box, uint64 (z, y, x), never 0."""
        return self._tiled(box, np.dtype(np.uint64), self._label_tile)

    def _tiled(self, box: Box, dtype: "np.dtype[np.generic]", make: TileMaker) -> np.ndarray:
        out = np.empty(box.shape, dtype)
        for coord in box.chunks((TILE,) * 3).coords().tolist():
            whole = Box.of_chunk(tuple(coord), (TILE,) * 3)
            part = box.intersect(whole)
            if part is not None:
                out[part.slices(box.start)] = make(whole.start)[part.slices(whole.start)]
        return out

    def _grid(self, low: ZYX) -> Grid:
        scales = tuple(size / 8.0 for size in self.voxel_size_xyz[::-1])
        z, y, x = ((np.arange(TILE) + start) * scale for start, scale in zip(low, scales, strict=True))
        return Grid(z, y, x)

    def _label_tile(self, low: ZYX) -> np.ndarray:
        return self._cells(self._grid(low)).label.reshape((TILE,) * 3)

    def _gray_tile(self, low: ZYX) -> np.ndarray:
        grid = self._grid(low)
        cells = self._cells(grid)
        gray = self._cytoplasm(grid, cells)
        gray = self._organelles(gray, grid, cells)
        gray = self._membranes(gray, grid, cells).reshape(grid.shape)
        gray += 4.5 * smooth(self.seed + 40, grid, 1.7) + 5.5 * grain(self.seed + 41, low, grid.shape)
        image: np.ndarray = np.clip(gray, 0, 255).astype(np.uint8)
        return image

    def _cells(self, grid: Grid) -> Cells:
        points = self._warped(grid)
        middle = points.mean(axis=1, keepdims=True)
        points = (points - middle).astype(np.float32)
        seeds, weight, label, axis, kind = self._seeds(points, middle[:, 0])
        far = (seeds * seeds).sum(axis=1) - weight  # |p|² is the same for all seeds: left out
        twice = np.float32(2) * seeds
        distance = far[:, None] - twice[:, :1] * points[0]
        for step in (1, 2):  # not a matrix product: BLAS would start threads below those of the copy
            distance -= twice[:, step, None] * points[step]
        nearest = distance.argmin(axis=0)
        column = np.arange(points.shape[1])
        best = distance[nearest, column]
        own = label[nearest]
        distance[label[:, None] == own] = np.inf
        other = distance.argmin(axis=0)
        gap = np.linalg.norm(seeds[other] - seeds[nearest], axis=1)
        membrane = (distance[other, column] - best) / (2 * np.maximum(gap, 1))
        membrane = np.minimum(membrane, np.float32(DEEP))
        place = points - seeds[nearest].T
        turn = axis[nearest]
        place = np.stack([np.take_along_axis(place, ((turn + shift) % 3)[None], 0)[0] for shift in range(3)])
        return Cells(own, membrane, place, kind[nearest])

    def _warped(self, grid: Grid) -> np.ndarray:
        """Return the positions in warped space, float64 (3, n): straight bisectors become wavy membranes."""
        axes = np.meshgrid(*grid.axes, indexing="ij", sparse=True)
        parts = [
            axis
            + 11.0 * smooth(self.seed + 3 * index, grid, 48.0)
            + 2.2 * smooth(self.seed + 3 * index + 1, grid, 13.0)
            for index, axis in enumerate(axes)
        ]
        return np.stack([part.ravel() for part in parts])

    def _seeds(self, points: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return position, weight, label, axis and hash of every seed that shapes these points."""
        low, high = points.min(axis=1), points.max(axis=1)
        first = np.floor((low + middle) / SPACING).astype(int) - REACH
        last = np.floor((high + middle) / SPACING).astype(int) + REACH
        cell = np.stack(
            np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij"),
            axis=-1,
        ).reshape(-1, 3)
        jitter = np.stack([uniform(self.seed + 10 + axis, *cell.T) for axis in range(3)], axis=1)
        seeds = (cell + jitter) * SPACING - middle
        weight = (0.55 * SPACING * uniform(self.seed + 13, *cell.T)) ** 2
        nearest = np.maximum(np.maximum(low - seeds, seeds - high), 0)
        farthest = np.maximum(np.abs(seeds - low), np.abs(seeds - high))
        least, most = (nearest**2).sum(axis=1) - weight, (farthest**2).sum(axis=1) - weight
        kept = least <= most.min() + MARGIN
        cell = cell[kept]
        label, axis = self._joined(cell)
        kind = hashed(self.seed + 20, *cell.T)
        return seeds[kept].astype(np.float32), weight[kept].astype(np.float32), label, axis, kind

    def _joined(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each seed and the axis of its neurite: columns of seeds, some of them thick."""
        block = cell // COLUMN
        axis = (hashed(self.seed + 30, *block.T) % np.uint64(3)).astype(int)
        rows = np.arange(len(cell))
        first = cell.copy()
        first[rows, axis] = block[rows, axis] * COLUMN
        pair = first // 2 * 2
        thick = uniform(self.seed + 31, *pair.T) < 0.3
        first = np.where(thick[:, None], pair, first)
        short = ~thick & (uniform(self.seed + 32, *first.T) < 0.25)
        first = np.where(short[:, None], cell, first)
        packed = (first + 2**16).astype(np.uint64)
        return packed[:, 0] << np.uint64(34) | packed[:, 1] << np.uint64(17) | packed[:, 2], axis

    def _cytoplasm(self, grid: Grid, cells: Cells) -> np.ndarray:
        shade = uniform(self.seed + 50, cells.label)
        gray = 158.0 + 26.0 * shade + 3.5 * smooth(self.seed + 51, grid, 30.0).ravel()
        texture = smooth(self.seed + 52, grid, 2.6).ravel()
        gray += (3.0 + 4.0 * uniform(self.seed + 53, cells.label)) * texture
        specks = smooth(self.seed + 54, grid, 2.2).ravel()
        return gray - 24.0 * np.clip(specks - 1.7, 0, 1.2)

    def _organelles(self, gray: np.ndarray, grid: Grid, cells: Cells) -> np.ndarray:
        inner = np.clip((cells.membrane - 2.5) / 2, 0, 1)
        sheets = np.abs(smooth(self.seed + 60, grid, 17.0)).ravel()
        where = np.clip(smooth(self.seed + 61, grid, 40.0).ravel() - 0.4, 0, 0.5) * 2
        gray = gray - 55.0 * where * inner * np.exp(-((sheets / 0.11) ** 2))
        gray = self._vesicles(gray, grid, cells, inner)
        return self._mitochondria(gray, cells, inner)

    def _mitochondria(self, gray: np.ndarray, cells: Cells, inner: np.ndarray) -> np.ndarray:
        along, side, up = cells.place
        present = cells.kind % np.uint64(100) < np.uint64(30)
        radius = 8.0 + 5.0 * ((cells.kind >> np.uint64(8)) % np.uint64(64)).astype(np.float32) / 64
        round_ = np.sqrt((along / 2.4) ** 2 + side**2 + up**2)
        depth = np.where(present, radius - round_, -9.0)
        depth = np.minimum(depth, cells.membrane - 2.0)
        body = np.clip(depth / 1.5, 0, 1)
        tilt = ((cells.kind >> np.uint64(16)) % np.uint64(256)).astype(np.float32) / 128 - 1
        cristae = np.clip(np.sin(along * 1.05 + tilt * side * 0.5 + 0.12 * up), 0, 1)
        matrix = 118.0 - 28.0 * cristae * np.clip(depth / 3, 0, 1)
        rim = 62.0 * np.exp(-(((depth - 0.8) / 1.2) ** 2)) * (depth > -3)
        shown: np.ndarray = gray * (1 - body) + matrix * body - rim * inner
        return shown

    def _vesicles(self, gray: np.ndarray, grid: Grid, cells: Cells, inner: np.ndarray) -> np.ndarray:
        pitch = 6.0
        cell = [np.floor(axis / pitch).astype(int) for axis in grid.axes]
        z, y, x = np.meshgrid(*cell, indexing="ij", sparse=True)
        square = np.zeros(grid.shape, np.float32)
        parts = np.meshgrid(
            *(axis - (c + 0.5) * pitch for axis, c in zip(grid.axes, cell, strict=True)), indexing="ij"
        )
        word = hashed(self.seed + 70, z, y, x)
        for index, part in enumerate(parts):
            shift = ((word >> np.uint64(8 * index)) & np.uint64(255)).astype(np.float32) / 255 - 0.5
            square += (part - 3.2 * shift) ** 2
        radius = np.sqrt(square).ravel()
        crowd = smooth(self.seed + 71, grid, 34.0).ravel()
        filled = (word >> np.uint64(32) & np.uint64(255)).ravel() < 150
        bouton = uniform(self.seed + 72, cells.label) < 0.45
        shown = inner * np.clip((crowd - 0.5) * 3, 0, 1) * (filled & bouton)
        return gray + shown * (
            22.0 * np.exp(-((radius / 1.3) ** 2)) - 58.0 * np.exp(-(((radius - 2.3) / 0.75) ** 2))
        )

    def _membranes(self, gray: np.ndarray, grid: Grid, cells: Cells) -> np.ndarray:
        density = np.clip(smooth(self.seed + 80, grid, 26.0).ravel() - 1.1, 0, 0.6) / 0.6
        width = 1.4 + 1.1 * density
        cover = np.exp(-((cells.membrane / width) ** 2))
        shown: np.ndarray = gray * (1 - cover) + (74.0 - 30.0 * density) * cover
        return shown
