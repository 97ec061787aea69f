"""JSON texts that Go's decoder takes and orjson refuses: numbers of any size, texts that are no Unicode."""

import json
import re

import orjson

from dvidzarr.wire.gotext import utf8_text

_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*+)(?:"
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb")"
)
"""Escapes of surrogates, behind any number of escaped backslashes."""


def load_json(data: bytes) -> object:
    """Parse JSON; bytes in it that are no UTF-8, and halves of surrogate pairs, are U+FFFD, as Go has it.

    Raises
    ------
    orjson.JSONDecodeError
        Malformed.
    """
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        mended = utf8_text(data).encode()
        if rb"\ud" in mended or rb"\uD" in mended:  # else the search would take longer than the parser did
            mended = _SURROGATES.sub(_mended, mended)
        if mended == data:
            raise
        value = orjson.loads(mended)
    return value


def load_first_json(data: bytes) -> object:
    """Parse the first JSON value of a text, as Go's decoder of streams does: what follows an object is not looked at.

    Raises
    ------
    orjson.JSONDecodeError
        It is malformed.
    """
    try:
        return load_json(data)
    except orjson.JSONDecodeError:
        text = utf8_text(data).lstrip(" \t\r\n")
        if not text.startswith("{"):
            raise
        try:
            _, end = _GRAMMAR.raw_decode(text)
        except (ValueError, RecursionError):
            end = 0
        if not end:
            raise
    return load_json(text[:end].encode())


def _mended(escape: re.Match[bytes]) -> bytes:
    return escape[1] + rb"\ufffd" if escape[2] else escape[0]


def is_json(data: bytes) -> bool:
    """Tell whether bytes are one JSON value, as Go's `json.Valid` does: it looks at the grammar alone.

    Of values that orjson refuses, those nested deeper than Python's stack (some 1000 levels) are not taken; Go's limit is
    10 000.
    """
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return _is_grammatical(utf8_text(data))
    return True


def _is_grammatical(text: str) -> bool:
    try:
        _GRAMMAR.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_GRAMMAR = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse)
"""What numbers mean is of no interest to it: their lengths take no memory."""
