"""A reader of stores that follows api/formats/store.md and nothing else: it imports nothing of the package."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numcodecs import blosc, zstd

VERSION, COMMIT, INSTANCE, RENAME, DELETE_INSTANCE = 2, 3, 6, 7, 8
CHUNKS, PUT, DELETE, BATCH, FINISHED, VOID = 32, 33, 34, 35, 38, 40
VOXELS = {
    "uint8blk": "<u1",
    "uint16blk": "<u2",
    "uint32blk": "<u4",
    "uint64blk": "<u8",
    "float32blk": "<f4",
    "rgba8blk": "<u4",
    "labelblk": "<u8",
}
Record = tuple[int, int, dict[str, Any], bytes]
"""Sequence, kind, header, payload."""
Coord = tuple[int, ...]


def records(folder: Path, store_id: str) -> list[Record]:
    """Return the records of a log, without those that are void."""
    found: list[Record] = []
    for path in sorted(folder.glob("*.log")):
        data = path.read_bytes()
        magic, store, log, first, salt, rest, checksum = struct.unpack("<8s16s16sQI8sI", data[:64])
        assert (magic, rest, checksum) == (b"DVZLOG1\n", bytes(8), crc32c(data[:60]))
        assert (store.hex(), log.hex()) == (store_id, folder.parent.name)
        assert first == len(found) + 1
        for sequence, frame in _frames(data, salt):
            assert sequence == len(found) + 1
            found += _records(sequence, frame)
    absent = {number for _, kind, header, _ in found if kind == VOID for number in header["sequences"]}
    return [record for record in found if record[0] not in absent]


def _frames(data: bytes, salt: int) -> Iterator[tuple[int, bytes]]:
    at = 64
    while at + 20 <= len(data):
        length, checksum, sequence = struct.unpack_from("<IIQ", data, at)
        body = data[at + 8 : at + 8 + length]
        if length < 22 or len(body) < length or crc32c(body, salt) != checksum:
            break
        yield sequence, body[8:]
        at += 8 + length
    assert not any(data[at:]), "only zeros lie behind the last frame"


def _records(first: int, frame: bytes) -> Iterator[Record]:
    (count,), at = struct.unpack_from("<I", frame), 4
    for number in range(count):
        kind, head, size = struct.unpack_from("<HII", frame, at)
        at += 10
        yield first + number, kind, json.loads(frame[at : at + head]), frame[at + head : at + head + size]
        at += head + size
    assert at == len(frame)


@dataclass(slots=True)
class Version:
    """A version of a repo."""

    id: str
    parents: list[str]
    locked: bool = False


@dataclass(slots=True)
class Chunk:
    """What a version says of a chunk."""

    sequence: int
    location: int
    length: int
    checksum: int
    deleted: bool


@dataclass(slots=True)
class Data:
    """An instance: by version, the entries of chunks and keys (None: deleted)."""

    folder: Path
    about: dict[str, Any]
    chunks: dict[str, dict[Coord, Chunk]] = field(default_factory=dict)
    values: dict[str, dict[bytes, bytes | None]] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """Take in a record of the instance's log."""
        sequence, kind, header, payload = record
        if kind == CHUNKS:
            assert header["s"] == 0
            self.chunks.setdefault(header["v"], {}).update(_entries(sequence, payload))
        elif kind == FINISHED:
            for chunk in self.chunks.get(header["v"], {}).values():
                chunk.location = 0
        elif kind in {PUT, DELETE, BATCH}:
            own = self.values.setdefault(header["v"], {})
            at = 0
            for key, size, checksum, blob in _items(kind, header, payload):
                own[payload[at : at + key]] = self._value(payload, at + key, size, checksum, blob)
                at += key + (size or 0 if blob is None else 0)
            assert at == len(payload)

    def _value(
        self, payload: bytes, at: int, size: int | None, checksum: int, blob: str | None
    ) -> bytes | None:
        if size is None:
            return None
        lies_here = payload[at : at + size]
        value = lies_here if blob is None else (self.folder / "blobs" / blob).read_bytes()
        assert (len(value), crc32c(value)) == (size, checksum)
        return value

    def decoded(self, version: str, coord: Coord) -> np.ndarray:
        """Return the voxels of a chunk that a version wrote."""
        entry = self.chunks[version][coord]
        if entry.location == 0:
            z, y, x = coord
            data = (self.folder / f"versions/{version}/0/c/{z}/{y}/{x}").read_bytes()
            assert len(data) == entry.length
        else:
            pack, offset = divmod(entry.location, 1 << 32)
            assert offset % 4096 == 0
            with (self.folder / f"rewrites/{version}/{pack:08x}").open("rb") as file:
                file.seek(offset)
                data = file.read(entry.length)
        body, trailer = data[:-4], struct.unpack("<I", data[-4:])[0]
        assert crc32c(body) == trailer == entry.checksum
        codec = zstd if self.about["type"] == "labelblk" else blosc
        shape = self.about["config"]["block_size_zyx"]
        return np.frombuffer(codec.decompress(body), VOXELS[self.about["type"]]).reshape(shape)


def _entries(sequence: int, payload: bytes) -> dict[Coord, Chunk]:
    (n,) = struct.unpack_from("<I", payload)
    assert len(payload) == 4 + 29 * n
    flat = struct.unpack_from(f"<{3 * n}i{n}q{n}I{n}I{n}B", payload, 4)
    coords = [flat[3 * i : 3 * i + 3] for i in range(n)]
    columns = [flat[k * n : (k + 1) * n] for k in range(3, 7)]
    return {
        coord: Chunk(sequence, location, length, checksum, bool(flags & 1))
        for coord, location, length, checksum, flags in zip(coords, *columns, strict=True)
    }


def _items(
    kind: int, header: dict[str, Any], payload: bytes
) -> Iterator[tuple[int, int | None, int, str | None]]:
    """Yield length of the key, length of the value (None: deleted), checksum, blob."""
    if kind == DELETE:
        yield header["k"], None, 0, None
    elif kind == PUT:
        blob = header.get("blob")
        yield header["k"], len(payload) - header["k"] if blob is None else header["n"], header["c"], blob
    else:
        for key, *rest in header["items"]:
            size, checksum, blob = [*rest, None, None, None][:3]
            yield key, size, checksum or 0, blob


class PlainStore:
    """The one repo of a store at rest."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "store.json").read_bytes())
        assert about["format"] == 1
        (repo,) = (folder / "repos").iterdir()
        self.versions: dict[str, Version] = {}
        instances: dict[str, dict[str, Any]] = {}
        for _, kind, header, _ in records(repo / "log", about["id"]):
            if kind == VERSION:
                self.versions[header["id"]] = Version(header["id"], header["parents"])
            elif kind == COMMIT:
                self.versions[header["v"]].locked = True
            elif kind == INSTANCE:
                instances[header["id"]] = header
            elif kind == RENAME:
                instances[header["id"]]["name"] = header["name"]
            elif kind == DELETE_INSTANCE:
                del instances[header["id"]]
        self.data: dict[str, Data] = {}
        for number, header in instances.items():
            data = self.data[header["name"]] = Data(repo / "data" / number, header)
            for record in records(data.folder / "log", about["id"]) if (data.folder / "log").exists() else ():
                data.take(record)

    def voxels(self, name: str, version: str, coord: Coord) -> np.ndarray | None:
        """Return a chunk as a version shows it, None where nothing is."""
        data = self.data[name]
        deleted = {
            number: {at: entry.deleted for at, entry in own.items()} for number, own in data.chunks.items()
        }
        writer = self._shown(deleted, version, coord)
        return None if writer is None or deleted[writer][coord] else data.decoded(writer, coord)

    def items(self, name: str, version: str) -> dict[str, bytes]:
        """Return the keys and values that a version shows."""
        data = self.data[name]
        version = version if data.about["versioned"] else "unversioned"
        found = {}
        for key in sorted({key for own in data.values.values() for key in own}):
            deleted = {n: {k: value is None for k, value in own.items()} for n, own in data.values.items()}
            writer = self._shown(deleted, version, key)
            value = None if writer is None else data.values[writer][key]
            if value is not None:
                found[key.decode()] = value
        return found

    def _shown(self, deleted: dict[str, dict[Any, bool]], version: str, key: object) -> str | None:
        """Return the version that wrote what a version shows of a chunk or key, None if it shows nothing."""
        if key in deleted.get(version, {}):
            return version
        parents = self.versions[version].parents if version in self.versions else []
        seen = {self._shown(deleted, parent, key) for parent in parents} - {None}
        writers = [str(writer) for writer in seen]
        left = [
            one for one in writers if not any(one in self._above(other) for other in writers if other != one)
        ]
        alive = [one for one in left if not deleted[one][key]]
        if not alive:
            return left[0] if left else None
        return alive[0] if len(alive) == 1 else None

    def _above(self, version: str) -> set[str]:
        parents = self.versions[version].parents
        return set(parents).union(*(self._above(parent) for parent in parents))
