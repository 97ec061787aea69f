"""Answers as DVID forms them."""

from collections.abc import Sequence

from dvidzarr.core.errors import DvidzarrError
from dvidzarr.http.errors import BodyTimeoutError, PlainError, status_of
from dvidzarr.http.response import Bytes, Response
from dvidzarr.wire.gotext import go_json

_ERROR_TYPE = "text/plain; charset=utf-8"
_ERROR_HEADERS = {"X-Content-Type-Options": "nosniff"}


def empty() -> Response:
    """Return 200 without body and Content-Type: DVID's answer to a write."""
    return Response()


def json_value(value: object) -> Response:
    """Return a value as compact JSON without trailing newline."""
    return Response(go_json(value), headers={"Content-Type": "application/json"})


def json_member(name: str, value: str) -> Response:
    """Return an object of one text member with a blank after the colon, as in DVID's `{"child": "…"}`."""
    body = b'{"%s": %s}' % (name.encode(), go_json(value))
    return Response(body, headers={"Content-Type": "application/json"})


def text(body: str, content_type: str = "text/plain") -> Response:
    """Return text."""
    return Response(body.encode(), headers={"Content-Type": content_type})


def octets(body: Bytes | Sequence[Bytes], content_type: str = "application/octet-stream") -> Response:
    """Return bytes at once; for much, or what takes work, there is `pumped`."""
    return Response(body, headers={"Content-Type": content_type})


def error_body(error: DvidzarrError, path: str) -> bytes:
    """Return the body of an error answer: DVID's `<message> (<path>).` and a newline."""
    message = error.text if isinstance(error, PlainError) else f"{error} ({path})."
    return message.encode("utf-8", "surrogateescape") + b"\n"


def failure(error: DvidzarrError, path: str) -> Response:
    """Return the answer to an error.

    A refused body is left unread on the connection, so the connection ends with the answer.
    """
    status = status_of(error)
    headers = dict(_ERROR_HEADERS)
    headers["Content-Type"] = error.content_type if isinstance(error, PlainError) else _ERROR_TYPE
    if status == 503:
        headers["Retry-After"] = "1"
    response = Response(error_body(error, path), status=status, headers=headers)
    response.close = status == 413 or isinstance(error, BodyTimeoutError)
    return response
