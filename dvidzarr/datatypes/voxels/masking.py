"""Reading within a region of interest: blocks outside are blank. Source: spec-voxels §6.6."""

import numpy as np

from dvidzarr.compute.read import Reader
from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.geometry import Box
from dvidzarr.core.lineage import Lineage
from dvidzarr.repo.view import BlockMask
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.chunks import ChunkStore


class MaskedReader(Reader):
    """A reader to which only the blocks of a mask exist; written ones outside of it read `blank`."""

    def __init__(
        self,
        chunks: ChunkStore,
        box: Box,
        lineage: Lineage,
        scheduler: Scheduler,
        mask: BlockMask,
        blank: int,
    ) -> None:
        self._mask = mask
        self._blank = blank
        super().__init__(chunks, box, lineage, scheduler)

    def _resolve(self) -> None:
        super()._resolve()
        coords = unpack(self._keys)
        inside = self._mask.contains(coords)
        self._keys, self._rows = self._keys[inside], self._rows[inside]
        self._blanks = coords[~inside] if self._blank else coords[:0]

    def _read(self, sub_box: Box | None, out: np.ndarray | None) -> np.ndarray:
        voxels = super()._read(sub_box, out)
        box = sub_box or self.box
        span, grid = box.chunks(self._grid), np.array(self._grid)
        touching = ((self._blanks >= span.start) & (self._blanks < span.stop)).all(axis=1)
        for low in (self._blanks[touching] * grid).tolist():
            part = tuple(
                slice(max(at - start, 0), at + size - start)
                for at, size, start in zip(low, self._grid, box.start, strict=True)
            )
            voxels[part] = self._blank
        return voxels
