"""JSON texts that Go's decoder takes and orjson refuses: numbers of any size, deep nesting, texts that are no Unicode."""

import re

import orjson

from dvidzarr.wire.gotext import utf8_text

_MOST_DEPTH = 10_000
"""Go's scanner takes so many levels."""

_TOKEN = re.compile(
    rb"""[ \t\n\r]*+(?:
        (?P<text>"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
        |(?P<plain>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)
        |(?P<mark>[][{},:])
        |(?P<end>\Z)
    )""",
    re.VERBOSE,
)

# what may come next
_VALUE, _ITEM_OR_END, _KEY, _KEY_OR_END, _COLON, _REST = range(6)

_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|\\.",
    re.DOTALL,
)


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
        mended = _ESCAPE.sub(_mended, utf8_text(data).encode())
        if mended == data:
            raise
        value = orjson.loads(mended)
    return value


def _mended(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def is_json(data: bytes) -> bool:
    """Tell whether bytes are one JSON value, as Go's `json.Valid` does: it looks at the grammar alone."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return _is_grammatical(data)
    return True


def _is_grammatical(data: bytes) -> bool:
    """Scan the tokens: time grows with the length, memory with the depth."""
    open_marks = bytearray()
    wanted = _VALUE
    at = 0
    while token := _TOKEN.match(data, at):
        at = token.end()
        kind = token.lastgroup
        if kind == "end":
            return wanted == _REST and not open_marks
        if kind == "mark":
            after = _after_mark(token["mark"], wanted, open_marks)
        elif wanted in (_VALUE, _ITEM_OR_END):
            after = _REST
        else:
            after = _COLON if kind == "text" and wanted in (_KEY, _KEY_OR_END) else None
        if after is None:
            return False
        wanted = after
    return False


def _after_mark(mark: bytes, wanted: int, open_marks: bytearray) -> int | None:
    """Return what may follow a mark, None if it must not stand here."""
    if mark in b"[{":
        open_marks += mark
        allowed = wanted in (_VALUE, _ITEM_OR_END) and len(open_marks) <= _MOST_DEPTH
        after = _ITEM_OR_END if mark == b"[" else _KEY_OR_END
    elif mark == b":":
        allowed, after = wanted == _COLON, _VALUE
    elif mark == b",":
        allowed = wanted == _REST and bool(open_marks)
        after = _KEY if open_marks[-1:] == b"{" else _VALUE
    else:
        opening, empty = (b"[", _ITEM_OR_END) if mark == b"]" else (b"{", _KEY_OR_END)
        allowed = wanted in (_REST, empty) and open_marks[-1:] == opening
        del open_marks[-1:]
        after = _REST
    return after if allowed else None
