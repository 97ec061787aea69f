"""Request target to path words, split exactly as DVID does."""

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response

_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")


def decoded_path(request: Request) -> str:
    """Return the percent-decoded path, bytes that are not UTF-8 as surrogate escapes.

    Raises
    ------
    PlainError
        400 for a broken escape.
    """
    target = target_of(request)
    if "%" not in target:
        return target
    raw = target.encode("utf-8", "surrogateescape")
    if _BAD_ESCAPE.search(raw):
        raise PlainError(400, "400 Bad Request: invalid URL escape")
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def target_of(request: Request) -> str:
    """Return the path of a request as it came, without the query."""
    target = request.path
    if "://" in target and not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]  # absolute form, as proxies send it
    return target


def redirect_of(request: Request) -> Response | None:
    """Return 307 to the cleaned path if this one has empty, `.` or `..` words; verb and body are kept.

    Words are looked at as they came: `%2E%2E` is a word like any other, a key for example (spec-keyvalue §1.1).
    """
    path = target_of(request)
    cleaned = clean_path(path)
    if cleaned == path:
        return None
    location = quote_from_bytes(cleaned.encode("utf-8", "surrogateescape"), safe="/:~,;=@!$&'()*+%")
    if request.query_string:
        location += "?" + request.query_string
    return Response(status=307, headers={"Location": location})


def clean_path(path: str) -> str:
    """Return the path without empty, `.` and `..` words; one trailing slash stays."""
    if "//" not in path and "/." not in path:
        return path
    words: list[str] = []
    for word in path.split("/"):
        if word == "..":
            del words[-1:]
        elif word not in ("", "."):
            words.append(word)
    slash = "/" if words and path.endswith("/") else ""
    return "/" + "/".join(words) + slash


def path_words(path: str) -> tuple[str, ...]:
    """Return the words below `/api/`, without the empty one of a trailing slash; none if not below it."""
    words = path.split("/")
    if words[-1] == "":
        del words[-1]
    return tuple(words[2:]) if len(words) > 2 and words[1] == "api" else ()
