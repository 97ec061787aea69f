"""Which bytes of a value a request wants: query values and the `Range` header (spec-keyvalue §2.4)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.wire.gotext import go_quote

_UINT64 = 1 << 64
_SPEC = re.compile(r"([^-,]*)-([^-,]*)")
_LIMIT = 20  # digits of a 64-bit number


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes [start, stop); `partial` asks for 206, else it is the answer of 200."""

    start: int
    stop: int
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A `Range` that the value cannot satisfy: 416 with this text."""

    text: str


def wanted_by_query(query: Mapping[str, str], key: str, length: int) -> Wanted | None:
    """Return what `byte_start` and `byte_end` (inclusive) ask for, None if neither is given."""
    given = [query.get(name) for name in ("byte_start", "byte_end")]
    if given == [None, None]:
        return None
    start, end = given
    if not start or not end:
        raise InvalidInputError(f"range read for key {go_quote(key)} requires both byte_start and byte_end")
    return slice_of(_unsigned("byte_start", start), _unsigned("byte_end", end), key, length)


def asks_by_query(query: Mapping[str, str]) -> bool:
    """Tell whether a byte range is given in the query."""
    return "byte_start" in query or "byte_end" in query


def _unsigned(name: str, text: str) -> int:
    number = _uint64(text)
    if number is None:
        raise InvalidInputError(f'{name} must be an unsigned integer, got "{text[:80]}"')
    return number


def _uint64(digits: str) -> int | None:
    """Return the number, None if it is none or has more than 64 bits."""
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0") or "0"
    number = int(digits) if len(digits) <= _LIMIT else _UINT64
    return None if number >= _UINT64 else number


def slice_of(start: int, end: int, key: str, length: int) -> Wanted:
    """Return the bytes from `start` to `end`, both inclusive, of a value; raise unless they lie in it."""
    check_order(start, end, key)
    shown = go_quote(key)
    for name, place in (("byte_start", start), ("byte_end", end)):
        if place >= length:
            raise InvalidInputError(f"{name} {place} is outside value for key {shown} with {length} bytes")
    return Wanted(start, end + 1)


def check_order(start: int, end: int, key: str) -> None:
    """Raise `InvalidInputError` if a range ends before it starts, whatever the value."""
    if start > end:
        raise InvalidInputError(f"byte_start {start} must be <= byte_end {end} for key {go_quote(key)}")


def wanted_by_header(header: str, length: int) -> Wanted | Unsatisfiable | None:
    """Return what a `Range` header asks for; None if it is to be ignored: other units, several ranges, nonsense."""
    match = _SPEC.fullmatch(header[6:].strip()) if header.startswith("bytes=") else None
    if match is None or match.groups() == ("", ""):
        return None
    if length == 0:
        return Unsatisfiable(f'Range "{header}" is not satisfiable for an empty value')
    first, last = (_uint64(digits) if digits else None for digits in match.groups())
    if (first, last).count(None) != match.groups().count(""):  # a number that Go cannot parse
        return None
    if first is None:
        count = min(last or 0, length)
        text = f'Range "{header}" is not satisfiable'
        return Wanted(length - count, length, partial=True) if count else Unsatisfiable(text)
    if first >= length:
        return Unsatisfiable(f"Range start {first} is outside value with {length} bytes")
    stop = length if last is None else min(last + 1, length)
    return Wanted(first, stop, partial=True) if last is None or first <= last else None
