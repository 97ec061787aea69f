"""A voxel instance of a running server: boxes through `raw`, blocks through the streams of blocks."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.cli.session import Session
from dvidzarr.cli.target import VersionInfo, VolumeInfo
from dvidzarr.core.errors import FormatError, InvalidInputError, StorageError
from dvidzarr.core.geometry import ZYX, Box, ChunkSpan
from dvidzarr.wire.blockstream import decode_frames
from dvidzarr.wire.compression import lz4_decode, lz4_prefixed_decode

if TYPE_CHECKING:
    from typing_extensions import Buffer

Unpack = Callable[[memoryview, int], bytes]

_FRAME_HEAD = 16
_COLOUR = ["uint8"] * 4
_STREAMS: dict[str, tuple[str, Unpack]] = {"labelblk": ("blocks", lz4_decode)}
_IMAGE_STREAM: tuple[str, Unpack] = ("subvolblocks", lz4_prefixed_decode)
"""Type → word of its stream of blocks, and how a payload in the stored form of an LZ4 instance is read."""


class RemoteVolume:
    """A voxel instance at a version of a running server."""

    def __init__(
        self, session: Session, version: VersionInfo, instance: str, info: Mapping[str, Any]
    ) -> None:
        base, extended = info["Base"], info["Extended"]
        self.info = VolumeInfo(
            name=instance,
            version=version.uuid,
            data_uuid=base["DataUUID"],
            locked=version.locked and bool(base.get("Versioned", True)),
            dtype=_dtype(instance, base["TypeName"], extended.get("Values") or []),
            chunk=_zyx(extended["BlockSize"]),
            extents=extents_of(info.get("Extents") or extended),
            voxel_size_xyz=tuple(float(size) for size in extended["VoxelSize"]),  # type: ignore[arg-type]
            voxel_units_xyz=tuple(extended["VoxelUnits"]),
            type_name=base["TypeName"],
            config=config_of(base, extended),
        )
        if min(self.info.chunk) < 1:
            raise InvalidInputError(f"{instance!r} has blocks of {self.info.chunk} voxels (z, y, x)")
        self._session = session

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box, 0 where none were written."""
        body = self._session.request("GET", *self._raw(box))
        wanted = box.volume * self.info.dtype.itemsize
        if len(body) != wanted:
            raise StorageError(
                f"{self._session.url} sent {len(body)} bytes for the box {box}, expected {wanted}"
            )
        return np.frombuffer(body, self.info.dtype).reshape(box.shape)

    def write(self, box: Box, array: np.ndarray) -> None:
        """Store a box. DVID takes whole blocks only: the rest of border blocks is read first."""
        whole = box.aligned(self.info.chunk)
        voxels = np.ascontiguousarray(array, self.info.dtype)
        if whole != box:
            around = self.read(whole).copy()
            around[box.slices(whole.start)] = voxels
            voxels = around
        self._session.request("POST", *self._raw(whole), content=voxels.tobytes())

    def blocks(self, box: Box) -> Iterator[tuple[ZYX, np.ndarray]]:
        """Yield (coordinate, block) of the blocks of an aligned box that exist."""
        info, span = self.info, box.chunks(self.info.chunk)
        size = math.prod(info.chunk) * info.dtype.itemsize
        word, unpack = _STREAMS.get(info.type_name, _IMAGE_STREAM)
        packed = info.config.get("Compression") == "lz4"
        largest = size + size // 255 + 20 if packed else size  # what LZ4 makes of noise
        params = {} if packed else {"compression": "uncompressed"}
        limit = span.count * (_FRAME_HEAD + largest)
        body = self._session.fetch(
            "node", info.version, info.name, word, *_words(box), params=params, limit=limit
        )
        try:
            for coord, payload in decode_frames(body, largest):
                voxels = unpack(payload, size) if packed else payload
                yield _asked(coord, span), _block(voxels, info)
        except FormatError as error:
            raise StorageError(f"{self._session.url} sent blocks that cannot be read: {error}") from error

    def write_blocks(self, coords: Sequence[ZYX], blocks: np.ndarray) -> None:
        """Store whole blocks: one request per run along x, which the types share (some have no `POST blocks`)."""
        order = sorted(range(len(coords)), key=coords.__getitem__)
        cuts = [at for at, (a, b) in enumerate(pairwise(order), 1) if not _adjoin(coords[a], coords[b])]
        for low, high in pairwise([0, *cuts, len(order)]):
            run = order[low:high]
            first, last = (Box.of_chunk(coords[at], self.info.chunk) for at in (run[0], run[-1]))
            self.write(first.union(last), np.concatenate([blocks[at] for at in run], axis=2))

    def extents(self) -> Box | None:
        """Return the extents as they are now; of labels as they were, which have none to set."""
        if self.info.type_name in _STREAMS:
            return self.info.extents
        info = self._session.json("GET", "node", self.info.version, self.info.name, "info")
        return extents_of(info["Extended"])

    def set_extents(self, box: Box) -> None:
        """Replace the extents of this version; DVID's points are inclusive. Labels have none to set."""
        if self.info.type_name in _STREAMS:
            return
        (x, y, z), (width, height, depth) = box.to_xyz()
        body = {"MinPoint": [x, y, z], "MaxPoint": [x + width - 1, y + height - 1, z + depth - 1]}
        self._session.json("POST", "node", self.info.version, self.info.name, "extents", body=body)

    @property
    def position(self) -> None:
        """Servers do not tell."""

    def kept(self, span: tuple[int, int]) -> bool:
        """Trust the server: what it acknowledged it keeps."""
        return True

    def _raw(self, box: Box) -> tuple[str, ...]:
        return ("node", self.info.version, self.info.name, "raw", "0_1_2", *_words(box))


def extents_of(members: Mapping[str, Any]) -> Box | None:
    """Return the extents that an answer tells."""
    low, high = members.get("MinPoint"), members.get("MaxPoint")
    if not low or not high:
        return None
    return Box.from_xyz(low, [last - first + 1 for first, last in zip(low, high, strict=True)])


def _asked(coord: ZYX, span: ChunkSpan) -> ZYX:
    if not all(a <= at < b for a, at, b in zip(span.start, coord, span.stop, strict=True)):
        raise FormatError(f"block {coord} (z, y, x) was not asked for")
    return coord


def _block(voxels: "Buffer", info: VolumeInfo) -> np.ndarray:
    flat = np.frombuffer(voxels, np.uint8)
    wanted = math.prod(info.chunk) * info.dtype.itemsize
    if len(flat) != wanted:
        raise FormatError(f"a block of {len(flat)} bytes, expected {wanted}")
    return flat.view(info.dtype).reshape(info.chunk)


def _dtype(name: str, type_name: str, values: Sequence[Mapping[str, Any]]) -> "np.dtype[np.generic]":
    kinds = [value["DataType"] for value in values]
    if kinds == _COLOUR:
        return np.dtype("<u4")  # as the Python library has colours: one number, red in its lowest byte
    if len(kinds) != 1:
        raise InvalidInputError(f"{name!r} is of type {type_name}, which does not hold one number a voxel")
    dtype: np.dtype[np.generic] = np.dtype(kinds[0]).newbyteorder("<")
    return dtype


def config_of(base: Mapping[str, Any], extended: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that make such an instance."""
    tags = base.get("Tags") or {}
    lists = {
        name: ",".join(map(str, extended[name]))
        for name in ("BlockSize", "VoxelSize", "VoxelUnits")
        if name in extended
    }
    return {
        **lists,
        **({"Background": str(extended["Background"])} if "Background" in extended else {}),
        "Compression": _compression(base.get("Compression", "")),
        "Checksum": "crc32" if "CRC32" in base.get("Checksum", "") else "none",
        "Versioned": "true" if base.get("Versioned", True) else "false",
        **({"Tags": ",".join(f"{key}={value}" for key, value in tags.items())} if tags else {}),
    }


def _compression(words: str) -> str:
    """Return the setting behind the words of `info`, such as "LZ4 compression, level -1" (spec-voxels §6.2)."""
    found = re.match(r"(?:Go )?(\w+) compression(?:, level (\d+))?", words)
    name, level = (found[1].lower(), found[2]) if found else ("no", None)
    if name == "gzip":
        return f"gzip:{level}" if level else "gzip"
    return {"no": "none"}.get(name, name)


def _adjoin(left: ZYX, right: ZYX) -> bool:
    return left[:2] == right[:2] and left[2] + 1 == right[2]


def _words(box: Box) -> tuple[str, str]:
    """Return size and offset as words of a path."""
    offset, size = box.to_xyz()
    return "_".join(map(str, size)), "_".join(map(str, offset))


def _zyx(xyz: Sequence[int]) -> ZYX:
    x, y, z = xyz
    return (z, y, x)
