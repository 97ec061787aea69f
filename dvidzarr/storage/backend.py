"""The protocol of a place that keeps objects by key. Keys are built from our own ids and numbers, never from client text."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from dvidzarr.core.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np

Length = TypeVar("Length", int, "np.ndarray")

RunAll = Callable[[Callable[[int], Any], int], list[Any]]
"""Calls a function with 0 … n−1, maybe in threads, and returns the results in order; all have ended when it raises."""


def in_turn(work: Callable[[int], Any], count: int) -> list[Any]:
    """Call `work(0)` … `work(count−1)` one after another: a `RunAll`."""
    return [work(index) for index in range(count)]


BLOCK = 4096
"""Stretches that are discarded begin at multiples of this and own the rest of their last block: a disk gives back blocks."""


def whole_blocks(length: Length) -> Length:
    """Return the bytes of the blocks that so many bytes lie in."""
    return -(-length // BLOCK) * BLOCK


class Part(NamedTuple):
    """A stretch of an object; all of it if `length` is 0."""

    key: str
    offset: int = 0
    length: int = 0


class Backend(Protocol):
    """Objects by key, on a disk or in a bucket. `None` and `False` mean surely absent; anything else raises."""

    url: str

    def get(self, key: str) -> bytes | None:
        """Return the whole object, None if it is surely absent."""
        ...

    def read_into(self, key: str, buffer: memoryview, offset: int = 0) -> int | None:
        """Fill `buffer` from an object; return how many bytes came, None if it is surely absent."""
        ...

    def read_at(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer raises."""
        ...

    def create(self, key: str, data: bytes | memoryview, *, sync: bool, soon: bool = False) -> bool:
        """Create an object that must not exist; False if it does.

        With `sync` its bytes are durable on return; `soon` announces a `sync` of it that will follow.
        """
        ...

    def sync(self, keys: Sequence[str], *, contents: bool = False, run_all: RunAll = in_turn) -> None:
        """Make the names of created objects durable, with `contents` their bytes before."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Put an object atomically and durably, over an older one if there is one."""
        ...

    def promote(self, source: str, target: str) -> None:
        """Make `target` the same object as `source`, atomically, over an older one; `source` stays."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; absent ones are passed over."""
        ...

    def discard(self, parts: Sequence[Part]) -> None:
        """Give back the room of objects and of stretches, which may read as zeros then; absent ones are passed over."""
        ...

    def forget(self, parts: Sequence[Part]) -> None:
        """Give back memory that is spent on what hardly anybody will read again; it stays."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder, at any depth, in no order."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below a folder, sorted."""
        ...

    def size(self, key: str) -> int | None:
        """Return the length of an object in bytes, None if absent."""
        ...

    def trash(self, prefix: str) -> None:
        """Move a folder into the trash, durably; nothing happens if it is absent."""
        ...


def check_key(key: str) -> str:
    """Return the key; raise `InvalidInputError` if it could leave the root."""
    if not key or key[0] == "/" or ".." in key or "\0" in key or "//" in key or "\\" in key:
        raise InvalidInputError(f"{key!r} is no key of an object: it must stay below the root of the store")
    return key
