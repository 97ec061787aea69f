"""Several keys and values as one answer: JSON, tar or protocol buffers, made piece by piece (spec-keyvalue §2.3, §2.5)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.keyvalue.model import key_text
from dvidzarr.wire.gotext import go_json, go_quote, utf8_text
from dvidzarr.wire.jsontext import is_json
from dvidzarr.wire.keyvalues import key_value_head
from dvidzarr.wire.tarstream import END, tar_header, tar_padding

if TYPE_CHECKING:
    from dvidzarr.datatypes.keyvalue.model import KeyValueView
    from dvidzarr.storage.places import Place


CHECKED_BYTES = 64 << 20
"""Longest value that is checked to be JSON: for that it is held and parsed as a whole."""


class BadValueError(InvalidInputError):
    """A value is not the JSON that it was to be checked for."""


@dataclass(frozen=True, slots=True)
class Item:
    """A key in an answer, and which bytes [start, stop) of its value; `place` is None for a missing key.

    `ranged`: whether these bytes were asked for; they may be the whole value even so.
    """

    key: bytes
    place: "Place | None"
    start: int
    stop: int
    ranged: bool = False

    @property
    def size(self) -> int:
        """Bytes of the value that are answered."""
        return self.stop - self.start

    @property
    def shown(self) -> str:
        """The key, as messages show it."""
        return go_quote(key_text(self.key))

    def pieces(self, view: "KeyValueView") -> Iterator[bytes]:
        """Yield the bytes."""
        if self.place is None or not self.size:
            return iter(())
        if self.size != self.place.length:
            return view.slice_pieces(self.key, self.place, self.start, self.stop)
        return view.read_pieces(self.key, self.place)

    def whole(self, view: "KeyValueView") -> bytes:
        """Return the bytes in one piece, to be checked; `BadValueError` if there are more than `CHECKED_BYTES`."""
        if self.size > CHECKED_BYTES:
            raise BadValueError(
                f"{self.size} bytes for key {self.shown}: JSON is checked up to {CHECKED_BYTES} bytes"
            )
        return b"".join(self.pieces(view))


Format = Callable[["KeyValueView", Iterable[Item]], Iterator[bytes]]


def as_protobuf(view: "KeyValueView", items: Iterable[Item]) -> Iterator[bytes]:
    """Yield a `KeyValues` message."""
    for item in items:
        yield key_value_head(item.key, item.size)
        yield from item.pieces(view)


def as_tar(view: "KeyValueView", items: Iterable[Item]) -> Iterator[bytes]:
    """Yield a tar archive with a file per key."""
    for item in items:
        yield tar_header(key_text(item.key), item.size)
        yield from item.pieces(view)
        yield tar_padding(item.size)
    yield END


def as_json(view: "KeyValueView", items: Iterable[Item], *, check: bool = False) -> Iterator[bytes]:
    """Yield an object of the values as they are; a missing or empty one is `{}`. With `check` they must be JSON."""
    head = b"{"
    for item in items:
        yield head + json_text(item.key) + b":"
        head = b","
        if check and item.size:
            yield _checked(item.whole(view), item)
        else:
            yield from item.pieces(view) if item.size else (b"{}",)
    yield b"{}" if head == b"{" else b"}"


def _checked(value: bytes, item: Item) -> bytes:
    if not is_json(value):
        raise BadValueError(f"bad JSON for key {item.shown}")
    return value


def json_text(raw: bytes) -> bytes:
    """Return a key as a JSON text."""
    return go_json(utf8_text(raw))


def json_texts(keys: list[bytes]) -> bytes:
    """Return keys as a JSON list of texts."""
    return go_json([utf8_text(raw) for raw in keys])
