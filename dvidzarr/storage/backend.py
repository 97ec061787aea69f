"""Objects by key, and stretches of them. Keys are built from our own ids and numbers, never from client text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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


def check_key(key: str) -> str:
    """Return the key; raise `InvalidInputError` if it could leave the root."""
    if not key or key[0] == "/" or ".." in key or "\0" in key or "//" in key or "\\" in key:
        raise InvalidInputError(f"{key!r} is no key of an object: it must stay below the root of the store")
    return key
