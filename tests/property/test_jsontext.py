"""What counts as JSON: the scanner for what orjson refuses agrees with other parsers."""

import json
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.wire.jsontext import is_json

_HUGE = b"1e999"
"""A number that orjson refuses: it sends a text to the scanner, and is as valid as any other."""

_MARKS = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "0",
    "1",
    "-",
    "+",
    ".",
    "e",
    "t",
    "null",
    "\\u12",
    " ",
    "\t",
    "\0",
    "/",
]

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
values: st.SearchStrategy[Any] = st.recursive(
    plain.filter(lambda value: value not in (float("inf"), float("-inf"))),
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


def scanned(text: bytes) -> bool:
    return is_json(b"[" + _HUGE + b"," + text + b"]")


@given(values, layouts, edits)
def test_the_scanner_takes_what_parsers_take(
    value: object, layout: dict[str, Any], edits: list[tuple[int, int, str]]
) -> None:
    text = json.dumps(value, **layout).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    for place, length, new in edits:
        at = place % (len(text) + 1)
        text = text[:at] + new + text[at + length :]
    raw = text.encode()
    # in a list, as the scanner sees it; Python's own parser minds no size of a number and no half of a pair
    assert scanned(raw) == accepted(json.loads, b"[0," + raw + b"]")
    assert is_json(raw) or not accepted(orjson.loads, raw)


def test_depth_is_that_of_go() -> None:
    for depth, valid in ((1023, True), (1025, True), (10_000, True), (10_001, False), (1_000_000, False)):
        assert is_json(b"[" * depth + b"]" * depth) is valid
        assert is_json(b'{"":' * (depth - 1) + b"{}" + b"}" * (depth - 1)) is valid
    assert not is_json(b"[" * 10_000)


def test_texts_may_hold_what_is_no_unicode() -> None:
    assert is_json(b'{"\xff":"\\ud800"}')
    for wrong in (
        b"\xff",
        b'"\xff',
        b'"\xff\n"',
        b'"\xff\\x"',
        b'["\xff",]',
        b'{"\xff"}',
        b'{1:"\xff"}',
        b'"\xff" 1',
    ):
        assert not is_json(wrong)
