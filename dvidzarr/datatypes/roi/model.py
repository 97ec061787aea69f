"""Regions of interest as Python: a set of blocks at each version. No web in here."""

from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvidzarr.core.errors import CorruptionError, InvalidInputError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.lineage import Lineage
from dvidzarr.datatypes.roi.partition import Partition, partition
from dvidzarr.datatypes.roi.spans import Spans
from dvidzarr.repo.config import text_setting
from dvidzarr.repo.datatype import DataType
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.view import View
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.merging import writers_shown
from dvidzarr.storage.places import Place
from dvidzarr.storage.writing import put_document, read_place

if TYPE_CHECKING:
    import xarray

    from dvidzarr.repo.dag import Ref, Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord

KEY = b"spans"
"""The one document: all spans of a version. An empty one hides those of the ancestors."""

_AXES = ("z", "y", "x")
_NOWHERE = (2**31 - 1, -(2**31))
"""DVID's MinZ and MaxZ where there are no spans."""


class RoiView(View):
    """A region of interest at a version."""

    instance: "RoiInstance"

    @property
    def spans(self) -> NDArray[np.int32]:
        """The spans in blocks: (n, 4), z, y, x0, x1 (inclusive), sorted. Not to be changed: see `replace`."""
        return self.resolve().rows

    def resolve(self) -> Spans:
        """Return the set of blocks."""
        lineage = self.lineage()
        return self.instance.spans_at(lineage)

    def replace(self, spans: "ArrayLike | Spans", author: Author = NO_AUTHOR) -> None:
        """Make spans (n, 4), z, y, x0, x1 (inclusive), the whole region of this version; ancestors keep theirs.

        Raises
        ------
        InvalidInputError
            A span with x1 < x0, or numbers that are no 32-bit integers: nothing is changed.
        VersionLockedError
            The version is locked.
        """
        given = spans if isinstance(spans, Spans) else Spans.of(spans)
        with self.writing() as dataset:
            header: dict[str, Any] = {"m": self.instance.repo.next_mutation(), "z": given.z_range}
            put_document(dataset, self.ordinal, KEY, given.to_bytes(), author, header)

    def clear(self, author: Author = NO_AUTHOR) -> None:
        """Empty the region of this version. Raises as `replace`."""
        self.replace((), author)

    # --- questions; all coordinates are voxels, (z, y, x) ----------------------------------------------------

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Tell of voxels (n, 3), (z, y, x), whether they lie in the region: bool, shape (n,)."""
        blocks = np.asarray(points, np.int64).reshape(-1, 3) // np.array(self.instance.block)
        return self.resolve().contains(blocks)

    def mask(self, box: Box) -> NDArray[np.bool_]:
        """Return which voxels of a box lie in the region: bool, of its shape (z, y, x)."""
        return self.resolve().mask(box, self.instance.block)

    @property
    def boxes(self) -> NDArray[np.int64]:
        """The voxels of each span: (n, 2, 3), start and stop (half-open)."""
        return self.resolve().boxes(self.instance.block)

    @property
    def extents(self) -> Box | None:
        """The smallest box around the region, None if it is empty."""
        boxes = self.boxes
        if not len(boxes):
            return None
        return Box.of(boxes[:, 0].min(axis=0).tolist(), boxes[:, 1].max(axis=0).tolist())

    def xarray(self, box: Box | None = None) -> "xarray.DataArray":
        """Return the mask of a box (default: the extents) as an xarray.DataArray; coordinates are voxel indices."""
        import xarray  # noqa: PLC0415 - takes long to load

        around = box or self.extents or Box((0, 0, 0), (0, 0, 0))
        coords = {axis: np.arange(a, b) for axis, a, b in zip(_AXES, around.start, around.stop, strict=True)}
        attributes = {"name": self.instance.name, "version": self.version.uuid}
        return xarray.DataArray(self.mask(around), coords, _AXES, self.instance.name, attributes)

    def partition(self, batchsize: int, *, optimized: bool = False) -> Partition:
        """Cut the region into boxes of about `batchsize` blocks along each axis, as DVID does (spec-roi §3.5)."""
        spans = self.resolve()
        return partition(spans, self.instance.z_range, batchsize, self.instance.block, optimized=optimized)

    def block_mask(self, box: Box) -> Spans:
        """Return which blocks of an image are inside, as DVID compares them when the box of voxels is asked for.

        Blocks of image and region are taken for the same whatever their sizes; only z is looked at in voxels (§6.6).
        """
        size = self.instance.block[0]
        return self.resolve().within_z(box.start[0] // size, (box.stop[0] - 1) // size)


class RoiInstance(Instance):
    """A versioned set of blocks."""

    view_class = RoiView
    unites: ClassVar[bool] = True

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        super().__init__(repo, record, datatype)
        x, y, z = record.config["block_size_xyz"]
        self.block: ZYX = (z, y, x)
        """Shape of a block in voxels, z, y, x."""
        self._writers: frozenset[int] = frozenset()
        self._z_range: tuple[int, int] | None = None
        self._held: tuple[tuple[tuple[int, int], ...], Spans] | None = None

    @classmethod
    def parse_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the block size as JSON."""
        return {"block_size_xyz": _block_size(config)}

    def at(self, ref: "Ref | None" = None) -> RoiView:
        """Return the view at a version: a reference, a `Version`, or None for the head of master.

        Raises as `Catalog.resolve`.
        """
        return cast("RoiView", super().at(ref))

    def extended(self, version: "Version") -> dict[str, Any]:
        """Return DVID's "Extended" members: spec-roi §3.1."""
        self.at(version).lineage()  # a follower of the store reads on
        low, high = self.z_range or _NOWHERE
        return {"BlockSize": list(self.block[::-1]), "MinZ": low, "MaxZ": high}

    @property
    def z_range(self) -> tuple[int, int] | None:
        """Lowest and highest block z of what was written last at any version, None if that was empty (DVID's quirk)."""
        _ = self.dataset  # the log may hold changes
        return self._z_range

    # --- what a version shows --------------------------------------------------------------------------------

    def spans_at(self, lineage: Lineage) -> Spans:
        """Return the spans that a version shows: of a merge all together that none of its lines replaced (spec-roi §4).

        The last ones are kept, since questions come in series.
        """
        writers = writers_shown(self.versions, self._writers, lineage.ordinal)
        places = [self._place(writer) for writer in sorted(writers)]
        state = tuple((place.ordinal, place.sequence) for place in places)
        held = self._held
        if held is not None and held[0] == state:
            return held[1]
        parts = [Spans.from_bytes(read_place(self.dataset, KEY, place)) for place in places]
        spans = Spans.union(parts)
        self._held = (state, spans)
        return spans

    def _place(self, writer: int) -> Place:
        place = self.dataset.documents.find(KEY, Lineage.root(writer))
        if place is None:
            raise CorruptionError(f"{self.prefix}: the spans of version {writer} are missing")
        return place

    # --- state -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        super().apply(entry, ordinal)
        if entry.kind == Kind.PUT:
            self._writers |= {ordinal}
            between = entry.header["z"]
            self._z_range = None if between is None else (between[0], between[1])

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {**super().snapshot(), "writers": sorted(self._writers), "z": self._z_range}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to a snapshot; an empty one = as created."""
        super().restore(state)
        self._writers = frozenset(state.get("writers", ()))
        between = state.get("z")
        self._z_range = None if between is None else (between[0], between[1])
        self._held = None


def _block_size(config: dict[str, Any]) -> list[int]:
    text = text_setting(config, "BlockSize", "32,32,32")
    pieces = [piece.strip() for piece in text.split(",")]
    if len(pieces) != len(_AXES):
        raise InvalidInputError(f"BlockSize must be 3d, not {len(pieces)}d")
    if not all(piece.isascii() and piece.isdigit() and len(piece) <= 10 for piece in pieces):
        raise InvalidInputError(f"BlockSize {text[:80]!r} must be three positive numbers")
    sizes = [int(piece) for piece in pieces]
    if min(sizes) < 1 or max(sizes) >= 1 << 31:
        raise InvalidInputError(f"BlockSize {text[:80]!r} must be three positive 32-bit numbers")
    return sizes


ROI = DataType(
    name="roi",
    url="github.com/janelia-flyem/dvid/datatype/roi",
    version="0.1",
    instance=RoiInstance,
    endpoints="dvidzarr.datatypes.roi.http:ENDPOINTS",
    help="datatypes/roi/help.md",
    settings=("BlockSize",),
)
