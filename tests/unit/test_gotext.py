"""Texts as Go prints them."""

import pytest

from dvidzarr.wire.gotext import go_json, go_quote, go_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "<nil>"),
        (True, "true"),
        (["a", None, [1]], "[a <nil> [1]]"),
        ({"k": 1, "a": {}}, "map[a:map[] k:1]"),
        (0, "0"),
        (-0.0, "-0"),
        (80, "80"),
        (0.5, "0.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (999999, "999999"),
        (999999.5, "999999.5"),
        (1000000, "1e+06"),
        (-1234567.5, "-1.2345675e+06"),
        (123456789, "1.23456789e+08"),
        (1 << 64, "1.8446744073709552e+19"),
        (1e300, "1e+300"),
    ],
)
def test_values_are_shown_as_in_go(value: object, text: str) -> None:
    assert go_text(value) == text


def test_keys_are_quoted_as_in_go() -> None:
    assert go_quote('a"b\\\n\x01é\udcff') == '"a\\"b\\\\\\n\\x01é\\xff"'


def test_json_shows_what_is_no_utf8() -> None:
    assert go_json({"\udcff": ["\ud800<", ("a", None)]}) == '{"\ufffd":["\ufffd\\u003c",["a",null]]}'.encode()


def test_json_escapes_what_html_and_javascript_would_take_for_their_own() -> None:
    assert go_json("<a>&\u2028\u2029") == b'"\\u003ca\\u003e\\u0026\\u2028\\u2029"'
