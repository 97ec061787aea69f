"""The keys of a key-value instance at one version, of a store in a folder or of a running server."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.wire.keyvalues import decode_key_values, key_value_head
from dvidzarr.wire.protobuf import bytes_head

if TYPE_CHECKING:
    from dvidzarr.cli.session import Session
    from dvidzarr.core.ids import Author
    from dvidzarr.datatypes.keyvalue.model import KeyValueView

_PIECE = 1 << 20


class Keys(Protocol):
    """Values by key. Keys are text; bytes that are not UTF-8 are surrogate escapes. Safe to call from several threads."""

    def names(self) -> list[str]:
        """Return all keys, in order of their bytes."""

    def read(self, key: str) -> bytes:
        """Return a value; `NotFoundError` if there is none."""

    def write(self, values: Mapping[str, bytes]) -> None:
        """Set values as one request: all of them, or none."""

    def remove(self, keys: Sequence[str]) -> None:
        """Delete keys, whether they exist or not."""


def batches(
    found: Iterable[tuple[str, bytes]], most_keys: int, most_bytes: int
) -> Iterator[dict[str, bytes]]:
    """Yield what can be written as one request each: so many keys and bytes, a larger value alone."""
    batch: dict[str, bytes] = {}
    size = 0
    for key, value in found:
        if batch and (size + len(value) > most_bytes or len(batch) == most_keys):
            yield batch
            batch, size = {}, 0
        batch[key] = value
        size += len(value)
    if batch:
        yield batch


def raw(key: str) -> bytes:
    """Return the bytes of a key; the order of keys is that of their bytes."""
    return key.encode("utf-8", "surrogateescape")


class LocalKeys:
    """The keys of a view."""

    def __init__(self, view: "KeyValueView", author: "Author") -> None:
        self._view = view
        self._author = author

    def names(self) -> list[str]:
        """Return all keys, in order of their bytes."""
        return list(self._view)

    def read(self, key: str) -> bytes:
        """Return a value; `NotFoundError` if there is none."""
        try:
            return self._view[key]
        except KeyError:
            raise _missing(key) from None

    def write(self, values: Mapping[str, bytes]) -> None:
        """Set values as one request: all of them, or none. Large ones become objects of their own."""
        if len(values) == 1:
            ((key, value),) = values.items()
            self._view.put(key, _in_pieces(value), author=self._author)
        else:
            self._view.put_many(values, author=self._author)

    def remove(self, keys: Sequence[str]) -> None:
        """Delete keys as one request."""
        self._view.remove(keys, author=self._author)


class RemoteKeys:
    """The keys of an instance of a running server.

    Keys that cannot be a word of a path ("/" splits one, however it is encoded) travel in protobuf messages.
    """

    def __init__(self, session: "Session", version: str, name: str) -> None:
        self._session = session
        self._base = ("node", version, name)

    def names(self) -> list[str]:
        """Return all keys, in order of their bytes."""
        return [str(key) for key in self._session.json("GET", *self._base, "keys")]

    def read(self, key: str) -> bytes:
        """Return a value; `NotFoundError` if there is none."""
        if _is_word(key):
            return self._session.fetch(*self._base, "key", key)
        wanted = bytes_head(1, len(raw(key))) + raw(key)
        answer = self._session.fetch(*self._base, "keyvalues", content=wanted)
        value = b"".join(bytes(found) for _, found in decode_key_values(memoryview(answer)))
        # the message does not tell a missing value from an empty one
        if not value and key not in self.names():
            raise _missing(key)
        return value

    def write(self, values: Mapping[str, bytes]) -> None:
        """Set values as one request: all of them, or none. A single one may have any size."""
        if len(values) == 1 and all(map(_is_word, values)):
            ((key, value),) = values.items()
            self._session.request("POST", *self._base, "key", key, content=value)
            return
        parts = [
            part for key, value in values.items() for part in (key_value_head(raw(key), len(value)), value)
        ]
        self._session.request("POST", *self._base, "keyvalues", content=b"".join(parts))

    def remove(self, keys: Sequence[str]) -> None:
        """Delete keys, one request each."""
        for key in keys:
            if not _is_word(key):
                raise InvalidInputError(
                    f"DVID's API has no way to delete the key {key!r}: give the path of the store"
                )
        for key in keys:
            self._session.request("DELETE", *self._base, "key", key)


def _in_pieces(value: bytes) -> bytes | Iterator[bytes]:
    """Return a value as pieces if it is large: it goes to the disk as an object of its own then."""
    if len(value) <= _PIECE:
        return value
    return (value[at : at + _PIECE] for at in range(0, len(value), _PIECE))


def _is_word(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "/" not in key and key not in {"", ".", ".."}


def _missing(key: str) -> NotFoundError:
    return NotFoundError(f"there is no key {key!r}")
