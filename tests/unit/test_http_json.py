"""JSON bodies and answers."""

import pytest

from dvidzarr.core.errors import (
    BusyError,
    DvidzarrError,
    ForbiddenError,
    NoSpaceError,
    NotFoundError,
    StorageError,
    TooLargeError,
    VersionLockedError,
)
from dvidzarr.core.errors import InvalidInputError as Invalid
from dvidzarr.http import responses
from dvidzarr.http.errors import PlainError, status_of
from dvidzarr.http.jsonbody import (
    parse_first_json,
    parse_json,
    struct_members,
    text_member,
    texts_member,
)
from dvidzarr.repo.config import text_setting


@pytest.mark.parametrize(
    "data", [b"", b"  ", b"{", b"nope", b'{"a":1,}', b"[1 2]", b'{"a":NaN}', b"\xff", b"{} x"]
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(Invalid, match="Malformed JSON request in body"):
        parse_json(data, 64)


@pytest.mark.parametrize("tail", [b"", b"x", b" {", b"\n\n[1", b"\xff", b"}"])
def test_what_follows_the_first_object_is_not_looked_at(tail: bytes) -> None:
    assert parse_first_json(b' {"a": {"b": "}"}}' + tail, 64) == {"a": {"b": "}"}}


def test_a_first_value_that_is_none_is_refused() -> None:
    assert parse_first_json(b"", 64) is None
    for data in (
        b" \n",
        b"{",
        b"nope",
        b'{"a":1,} x',
        b'{"a" 1}',
        b"x {}",
        b'{"a":NaN} x',
        b'{"a":' * 100_000,
    ):
        with pytest.raises(Invalid, match="Malformed JSON request in body"):
            parse_first_json(data, 64)
    with pytest.raises(Invalid, match="nested deeper"):
        parse_first_json(b'{"a":' * 65 + b"1" + b"}" * 65 + b" x", 64)


def test_what_is_no_unicode_is_replaced() -> None:
    assert parse_json(b'["\xff", "\\ud800", "\\udc00\\ud83d\\ude00", "\\\\ud800"]', 64) == [
        *("\ufffd", "\ufffd", "\ufffd\U0001f600", "\\ud800")
    ]


def test_depth_is_limited() -> None:
    assert parse_json(b"[" * 64 + b"]" * 64, 64)
    with pytest.raises(Invalid, match="nested deeper"):
        parse_json(b"[" * 65 + b"]" * 65, 64)
    with pytest.raises(Invalid):
        parse_json(b"[" * 1_000_000, 64)
    with pytest.raises(Invalid):
        parse_json(b'{"a":' * 100 + b"1" + b"}" * 100, 64)


def test_wide_documents_are_not_deep() -> None:
    assert parse_json(b"[" + b"[],[]," * 1000 + b"[]]", 64) == [[]] * 2001


def test_struct_member_names_in_any_case() -> None:
    members = struct_members(
        {"NOTE": "n", "Log": ["a", None], "uuid": None, "x": 5}, ("note", "uuid"), ("log",)
    )
    assert members == {"note": "n", "log": ["a", ""]}


@pytest.mark.parametrize("value", [5, "x", [1], True])
def test_struct_needs_an_object(value: object) -> None:
    with pytest.raises(Invalid, match="cannot unmarshal"):
        struct_members(value, ("note",))


@pytest.mark.parametrize(("member", "kind"), [(5, "number"), (True, "bool"), ([], "array"), ({}, "object")])
def test_struct_kinds(member: object, kind: str) -> None:
    with pytest.raises(Invalid, match=f"cannot unmarshal {kind} into Go struct field .note of type string"):
        struct_members({"note": member}, ("note",))


def test_plain_members_are_case_sensitive() -> None:
    assert text_member({"Note": "x"}, "note") is None
    assert text_member({"note": None}, "note") == ""
    assert texts_member({"log": ["a"]}, "log") == ["a"]
    assert texts_member(None, "log") is None
    with pytest.raises(Invalid):
        text_member({"note": "fine", "other": 3}, "note")
    with pytest.raises(Invalid):
        texts_member({"log": [1]}, "log")


def test_text_settings() -> None:
    assert text_setting({"a": "x"}, "a", None) == "x"
    assert text_setting({}, "a", None) is None
    with pytest.raises(Invalid, match="Setting for 'a' was not a string: <nil>"):
        text_setting({"a": None}, "a", None)


def test_go_json_escapes() -> None:
    assert responses.go_json({"a": "<&>λ"}) == '{"a":"\\u003c\\u0026\\u003eλ"}'.encode()


def test_json_member_has_a_blank() -> None:
    assert responses.json_member("child", 'a"b').body == b'{"child": "a\\"b"}'


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("x"), 400),
        (NotFoundError("x"), 400),
        (VersionLockedError("x"), 400),
        (ForbiddenError("x"), 400),
        (TooLargeError("x"), 413),
        (BusyError("x"), 503),
        (StorageError("x"), 500),
        (NoSpaceError("x"), 507),
        (PlainError(404, "x"), 404),
    ],
)
def test_status(error: DvidzarrError, status: int) -> None:
    assert status_of(error) == status
    response = responses.failure(error, "/api/x")
    assert response.status == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_error_text() -> None:
    assert responses.failure(NotFoundError("no"), "/api/\udcff").body == b"no (/api/\xff).\n"
    assert responses.failure(PlainError(404, "404 page not found"), "/x").body == b"404 page not found\n"
