"""What lies under the Zarr keys of one version of an instance, as bytes. Knows the Zarr format, but not zarr-python.

Chunk keys of the arrays that the instance declares lead to the chunk store, without decoding. Their `zarr.json` is
derived; what users add to the attributes is kept as a document and merged in. Any other key is a document of the
version. Chunks with negative coordinates have no Zarr key and are not seen here.
"""

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from dvidzarr.core.errors import CorruptionError, FormatError, InvalidInputError
from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, ChunkSpan
from dvidzarr.core.ids import NO_AUTHOR
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.backend import in_turn
from dvidzarr.storage.chunkkeys import pack_one, unpack
from dvidzarr.storage.codecs import Encoded
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.places import Place
from dvidzarr.storage.runs import LENGTH, TOMBSTONE, Row
from dvidzarr.storage.writing import delete_document, get_document, put_document, write_chunks

Chunk = tuple[int, ZYX]
"""(scale, chunk coordinate)."""

Reading = tuple[Dataset, Lineage]
"""An instance on the store, and the lineage of a version."""

_METADATA = "zarr.json"
_CHUNK_KEY = re.compile(r"(.+)/c/(0|[1-9][0-9]*)/(0|[1-9][0-9]*)/(0|[1-9][0-9]*)")
_KEYS = b"zarr/"
"""Documents under Zarr keys, apart from what else an instance keeps as documents."""
_ATTRIBUTES = b"zarr-attributes/"
"""Users' attributes of the derived `zarr.json` of that key, as JSON."""


class Source(Protocol):
    """One version of an instance, as its owner hands it in. It pickles; unpickled it takes no writes."""

    @property
    def url(self) -> str:
        """A text that names store, instance and version."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether the version is locked, or the store open for reading only."""
        ...

    def reading(self) -> Reading:
        """Return instance and lineage, after reading on in the logs if another process writes."""
        ...

    def writing(self) -> AbstractContextManager[Reading]:
        """Pass the gates of a write; raise if the version is locked."""
        ...

    def header(self, coord: ZYX | None = None) -> dict[str, Any]:
        """Return what a record says beside its content; `coord` is the chunk of scale 0 that it writes."""
        ...

    def metadata(self) -> Mapping[str, bytes]:
        """Return the derived `zarr.json` documents of the version by key."""
        ...

    def resize(self, key: str, shape: tuple[int, ...]) -> None:
        """Change what the shape in a derived `zarr.json` follows from."""
        ...


class VersionKeys:
    """Values by Zarr key. Blocking, callable from any thread; each change is one request, durable on return.

    Parameters
    ----------
    source : Source
    arrays : mapping of str to int
        Path of each declared array → its scale. Empty: all keys are documents.
    """

    def __init__(self, source: Source, arrays: Mapping[str, int]) -> None:
        self.source = source
        self.arrays = dict(arrays)
        self.derived = frozenset(
            (*(f"{path}/{_METADATA}" for path in arrays), *([_METADATA] if arrays else ()))
        )
        """Keys of the metadata that follow from the instance."""

    def chunk_of(self, key: str) -> Chunk | None:
        """Return which chunk of a declared array a key names, None if it names none."""
        match = _CHUNK_KEY.fullmatch(key)
        if match is None or match[1] not in self.arrays:
            return None
        return self.arrays[match[1]], (int(match[2]), int(match[3]), int(match[4]))

    # --- reading ---------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """Return a value, None if there is none."""
        chunk = self.chunk_of(key)
        if chunk is not None:
            return self._encoded(*chunk)
        if key in self.derived:
            return self._metadata(key)
        return get_document(*self._named(_KEYS, key))

    def _encoded(self, scale: int, coord: ZYX) -> bytes | None:
        """Return a chunk as it lies on the store, once its length and checksum are found to be those recorded."""
        row = self._row(scale, coord)
        if row is None:
            return None
        dataset, lineage = self.source.reading()
        data = dataset.arrays[scale].encoded(pack_one(coord), row, lineage)
        return None if data is None else data.tobytes()

    def _row(self, scale: int, coord: ZYX) -> Row | None:
        dataset, lineage = self.source.reading()
        return None if max(coord) >= CHUNK_LIMIT else dataset.arrays[scale].find(pack_one(coord), lineage)

    def _is_deleted(self, scale: int, coord: ZYX) -> bool:
        """Whether a tombstone is there already. A conflict also reads as absent, but a deletion settles it."""
        dataset, lineage = self.source.reading()
        if max(coord) >= CHUNK_LIMIT:
            return True
        rows = dataset.arrays[scale].resolve(np.array([pack_one(coord)]), lineage)
        return bool(rows["flags"][0] & TOMBSTONE)

    def _named(self, space: bytes, key: str) -> tuple[Dataset, bytes, Lineage]:
        dataset, lineage = self.source.reading()
        return dataset, space + key.encode(), lineage

    def _place(self, key: str) -> Place | None:
        dataset, name, lineage = self._named(_KEYS, key)
        return dataset.documents.find(name, lineage)

    def _metadata(self, key: str) -> bytes:
        attributes = self._user_attributes(key)
        derived = self.source.metadata()[key]
        if not attributes:
            return derived
        document = json.loads(derived)
        document["attributes"] = attributes | document["attributes"]
        return json.dumps(document, indent=2).encode()

    def _user_attributes(self, key: str) -> dict[str, Any]:
        data = get_document(*self._named(_ATTRIBUTES, key))
        attributes: dict[str, Any] = {} if data is None else json.loads(data)
        return attributes

    def size(self, key: str) -> int | None:
        """Return the length of a value in bytes, None if there is none."""
        chunk = self.chunk_of(key)
        if chunk is not None:
            row = self._row(*chunk)
            return None if row is None else row[LENGTH]
        if key in self.derived:
            return len(self._metadata(key))
        place = self._place(key)
        return None if place is None else place.length

    # --- writing ---------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Write a chunk or a document.

        Raises
        ------
        VersionLockedError
            The version is locked.
        FormatError
            A chunk that the codecs of its array cannot decode.
        """
        chunk = self.chunk_of(key)
        if chunk is None:
            self._put_document(_KEYS + key.encode(), data)
            return
        scale, (z, y, x) = chunk
        ChunkSpan((z, y, x), (z + 1, y + 1, x + 1)).check()
        try:
            encoded = Encoded(data, self.source.reading()[0].arrays[scale].codec.check(data))
        except CorruptionError as error:
            raise FormatError(f"{key}: {error}") from None
        with self.source.writing() as (dataset, lineage):
            self._write(dataset, lineage, chunk, encoded)

    def _write(self, dataset: Dataset, lineage: Lineage, chunk: Chunk, encoded: Encoded | None) -> None:
        scale, coord = chunk
        write_chunks(
            dataset,
            dataset.arrays[scale],
            lineage.ordinal,
            [coord],
            lambda _: encoded,
            author=NO_AUTHOR,
            header=self.source.header(coord if encoded is not None and scale == 0 else None),
            run_all=in_turn,
        )

    def _put_document(self, name: bytes, value: bytes) -> None:
        with self.source.writing() as (dataset, lineage):
            put_document(dataset, lineage.ordinal, name, value, NO_AUTHOR, self.source.header())

    def change_metadata(self, key: str, given: dict[str, Any], derived: dict[str, Any]) -> None:
        """Take over shape and attributes of a derived `zarr.json`; raise `InvalidInputError` if more than that differs.

        `given` is the document as it shall be, `derived` as it follows from the instance, in the same spelling.
        """
        changed = {name for name in given | derived if given.get(name) != derived.get(name)} - {"attributes"}
        if "shape" in given and "shape" in derived:
            changed.discard("shape")
        fixed, attributes = derived["attributes"], given["attributes"]
        changed |= {f"attribute {name}" for name in fixed if attributes.get(name, fixed[name]) != fixed[name]}
        if changed:
            raise InvalidInputError(
                f"{key}: {', '.join(sorted(changed))} cannot be changed: the data instance decides. "
                f"Through Zarr the shape may change, and attributes may be added"
            )
        own = {name: value for name, value in attributes.items() if name not in fixed}
        if own != self._user_attributes(key):
            self._put_document(_ATTRIBUTES + key.encode(), json.dumps(own).encode())
        if given.get("shape") != derived.get("shape"):
            self.source.resize(key, tuple(given["shape"]))

    def delete(self, key: str) -> None:
        """Delete the value of just this key in this version, ancestors keep theirs; nothing happens if there is none."""
        if key in self.derived:
            self.refuse_derived(key)
        source, chunk = self.source, self.chunk_of(key)
        with source.writing() as (dataset, lineage):
            if chunk is not None:
                if not self._is_deleted(*chunk):
                    self._write(dataset, lineage, chunk, None)
            elif self._place(key) is not None:
                name = _KEYS + key.encode()
                delete_document(dataset, lineage.ordinal, name, NO_AUTHOR, source.header())

    def refuse_derived(self, path: str) -> None:
        """Raise if a key, or one below it, holds the metadata of the instance."""
        folder = f"{path}/" if path else ""
        if any(key == path or key.startswith(folder) for key in self.derived):
            raise InvalidInputError(
                f"{path or 'the root'!r} cannot be deleted through Zarr: it describes a data instance"
            )

    # --- listing ---------------------------------------------------------------------------------------------

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that start with a prefix."""
        found = sorted(self._plain_keys(prefix))
        for path, scale in self.arrays.items():
            base = f"{path}/c/"
            if base.startswith(prefix) or prefix.startswith(base):
                names = (f"{base}{z}/{y}/{x}" for z, y, x in self._coords(scale).tolist())
                found += [name for name in names if name.startswith(prefix)]
        return found

    def _plain_keys(self, prefix: str) -> set[str]:
        """Return the keys of documents and of derived metadata that start with a prefix."""
        dataset, first, lineage = self._named(_KEYS, prefix)
        names = dataset.documents.keys(lineage, first, first + b"\xff")  # no UTF-8 has this byte
        keys = {name[len(_KEYS) :].decode() for name in names}
        return keys | {key for key in self.derived if key.startswith(prefix)}

    def _coords(self, scale: int) -> np.ndarray:
        dataset, lineage = self.source.reading()
        coords = unpack(dataset.arrays[scale].visible(lineage))
        return coords[(coords >= 0).all(axis=1)]

    def children(self, folder: str) -> list[str]:
        """Return the names directly below a folder."""
        start = f"{folder}/" if folder else ""
        names = {key[len(start) :].partition("/")[0] for key in self._plain_keys(start)}
        for path, scale in self.arrays.items():
            base = f"{path}/c/"
            if start.startswith(base):
                names |= _below(self._coords(scale), start[len(base) :].split("/")[:-1])
            elif base.startswith(start) and len(self._coords(scale)):
                names.add(base[len(start) :].partition("/")[0])
        return sorted(names)


def _below(coords: np.ndarray, leading: list[str]) -> set[str]:
    """Return the next part of the keys of chunks whose coordinates begin with these numbers."""
    if len(leading) >= 3 or not all(part.isdecimal() for part in leading):
        return set()
    for axis, part in enumerate(leading):
        coords = coords[coords[:, axis] == int(part)]
    return {str(number) for number in np.unique(coords[:, len(leading)]).tolist()}
