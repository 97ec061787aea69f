"""JSON lists of integer tuples, as Go decodes `[][n]int32`: short ones filled with 0, long ones cut (spec-roi §3)."""

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidzarr.core.errors import InvalidInputError

_PLAIN = b"0123456789-,[] \t\r\n"
_INT32 = range(-(1 << 31), 1 << 31)


def parse_tuples(data: bytes, width: int) -> NDArray[np.int64]:
    """Return the tuples, shape (n, width), each number a 32-bit one; null is no tuples.

    Raises
    ------
    InvalidInputError
        Not JSON, or something else than lists of 32-bit integers.
    """
    if not data.strip():
        raise InvalidInputError("unexpected end of JSON input")
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(str(error)) from None
    if value is None or value == []:
        return np.empty((0, width), np.int64)
    if not isinstance(value, list):
        raise _mismatch(value, "a list")
    plain = not data.translate(None, _PLAIN)
    found = _rectangular(value, width) if plain else None
    if found is None:
        found = np.array([_tuple(item, width) for item in value], np.int64)
    return found


def _rectangular(value: list[Any], width: int) -> NDArray[np.int64] | None:
    """Return lists of the same length, nothing but integers, at numpy's speed; None if they are not."""
    try:
        table = np.array(value, np.int64)
    except (ValueError, OverflowError):
        return None
    fits = table.ndim == 2 and table.shape[1] == width
    return table if fits and table.min() >= _INT32[0] and table.max() <= _INT32[-1] else None


def _tuple(item: object, width: int) -> list[int]:
    numbers = [] if item is None else item
    if not isinstance(numbers, list):
        raise _mismatch(numbers, f"a list of {width} integers")
    padded = [0 if number is None else number for number in (*numbers, *[0] * width)[:width]]
    for number in padded:
        if type(number) is not int or number not in _INT32:
            raise _mismatch(number, "a 32-bit integer")
    return padded


def _mismatch(value: object, wanted: str) -> InvalidInputError:
    return InvalidInputError(f"json: {value!r:.80} is not {wanted}")
