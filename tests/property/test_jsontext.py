"""What counts as JSON, beside two parsers: one that takes less, and one that takes a little more."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.wire.jsontext import is_json, load_json

_ODD = (b"1e999", b"9" * 400, b'"\xff"', rb'"\ud800"')
"""Values that orjson refuses, and that are as valid as any other."""

_MARKS = [*'{}[],:"\\01-+.et \t\0/', "null", "\\u12", "NaN"]

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
values: st.SearchStrategy[Any] = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
edits = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.sampled_from(["", *_MARKS])), max_size=3
)


def accepted(loads: Callable[[bytes], object], text: bytes) -> bool:
    try:
        loads(text)
    except ValueError:
        return False
    return True


@given(values, layouts, edits, st.sampled_from(_ODD))
def test_odd_values_change_nothing(
    value: object, layout: dict[str, Any], edits: list[tuple[int, int, str]], odd: bytes
) -> None:
    text = json.dumps(value, **layout).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    for place, length, new in edits:
        at = place % (len(text) + 1)
        text = text[:at] + new + text[at + length :]
    raw = text.encode()
    valid = is_json(b"[" + odd + b"," + raw + b"]")
    if accepted(orjson.loads, b"[0," + raw + b"]"):
        assert valid
    if valid:
        assert accepted(json.loads, b"[0," + raw + b"]")
        assert is_json(b"[0," + raw + b"]")


@pytest.mark.parametrize(
    "odd", [*_ODD, b'{"\xff":"\\ud800"}', b"-1e-99999", b"[" * 900 + b"1e999" + b"]" * 900]
)
def test_odd_values_are_json(odd: bytes) -> None:
    assert is_json(odd)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xff",
        b'"\xff',
        b'"\xff\n"',
        b'"\xff\\x"',
        b'["\xff",]',
        b'{"\xff"}',
        b'{1:"\xff"}',
        b'"\xff" 1',
        b"[1e999,NaN]",
        b"[1e999,-Infinity]",
        b"[1e999,01]",
        b"[1e999,1.5.2]",
        b"[1e999",
        b"[" * 100_000,
    ],
)
def test_what_is_no_json(wrong: bytes) -> None:
    assert not is_json(wrong)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'"a\xffb"', "a\ufffdb"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'["\ud83d\ude00","\ud83d"]', ["\U0001f600", "\ufffd"]),
        (rb'"\ude00\ud83d\ud83d\ude00"', "\ufffd\ufffd\U0001f600"),
        (rb'["\\ud800","\ud800"]', ["\\ud800", "\ufffd"]),
        (rb'["\\\ud800","\\\\ud800"]', ["\\\ufffd", "\\\\ud800"]),
    ],
)
def test_what_is_no_unicode_is_replaced(data: bytes, value: object) -> None:
    assert load_json(data) == value


@pytest.mark.parametrize("unit", [rb"\\", b"\xff", rb"\ud800", rb"\ud83d\ude00", b"[1e999,", rb'"\""'])
def test_long_malformed_texts_take_little(unit: bytes) -> None:
    """A time that grows with the square would show as a test that does not end."""
    data = b'["' + unit * (2_000_000 // len(unit))
    assert not is_json(data)
    with pytest.raises(orjson.JSONDecodeError):
        load_json(data)
