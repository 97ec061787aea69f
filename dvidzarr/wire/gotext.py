"""Texts as Go's standard library makes them."""

import re
from datetime import datetime
from decimal import Decimal
from math import isfinite

import orjson

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = (
    (b"&", b"\\u0026"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def go_time(seconds: float) -> str:
    """Return a time as Go prints it by default."""
    time = datetime.fromtimestamp(seconds).astimezone()
    fraction = f".{time.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{time:%Y-%m-%d %H:%M:%S}{fraction} {time:%z %Z}"


def go_text(value: object) -> str:
    """Return a JSON value as Go's `%v` prints it; every number is a float64 there.

    >>> go_text({"b": [1, "a", None], "a": 1000000})
    'map[a:1e+06 b:[1 a <nil>]]'
    """
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(go_text, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_text(value[key])}' for key in sorted(value))}]"
    return str(value)


def _number(value: float) -> str:
    """Return the shortest text that means the number, with an exponent below 1e-4 and from 1e6 on."""
    try:
        number = float(value)
    except OverflowError:  # an integer of Python's, not of a JSON text
        return str(value)
    if number == 0 or 1e-4 <= abs(number) < 1e6 or not isfinite(number):
        return repr(number).removesuffix(".0")
    digits = Decimal(repr(number)).normalize().as_tuple().digits
    return f"{number:.{len(digits) - 1}e}"


def go_quote(text: str) -> str:
    """Return a text as Go's `%q` shows it, as far as keys need it."""
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else _escape(char) for char in shown) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def utf8_text(raw: bytes) -> str:
    r"""Return bytes as text; each that is no UTF-8 is U+FFFD, as Go shows it.

    >>> utf8_text(b"a\xe4\xb8") == "a\ufffd\ufffd"
    True
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return without_surrogates(raw.decode("utf-8", "surrogateescape"))


def without_surrogates(text: str) -> str:
    """Return a text with U+FFFD for what UTF-8 cannot hold: the surrogate escapes of bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def go_json(value: object) -> bytes:
    r"""Encode as Go does: compact; `<`, `>`, `&` and the line breaks of JavaScript escaped; no UTF-8 is U+FFFD."""
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:  # orjson refuses surrogates
        text = orjson.dumps(_encodable(value))
    for raw, escaped in _ESCAPED:
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member) for key, member in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value
