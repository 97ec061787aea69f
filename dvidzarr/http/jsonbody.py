"""Request bodies that hold JSON, read with the strictness of Go's decoder."""

from collections.abc import Callable, Iterable

import orjson

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.body import receive_small
from dvidzarr.http.endpoint import Call
from dvidzarr.wire.jsontext import load_first_json, load_json

_MALFORMED = "Malformed JSON request in body: "
_GO_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


_INLINE_BYTES = 64 << 10
"""Longer bodies are parsed beside the event loop, which 64 MiB would hold up for a second."""


async def receive_json(call: Call) -> object:
    """Return the JSON value of the body; an empty body is malformed."""
    return await parsed(call, await receive_small(call))


async def receive_optional_json(call: Call) -> object:
    """Return the JSON value of the body, None if it is empty."""
    data = await receive_small(call)
    return await parsed(call, data) if data else None


async def receive_first_json(call: Call) -> object:
    """Return the first JSON value of the body, None if that is empty.

    DVID reads these bodies with a decoder of streams and looks at nothing behind an object; all others must be JSON as a
    whole. Its messages tell which: "unexpected EOF" here (server/node-note), "unexpected end of JSON input" there.
    """
    return await parsed(call, await receive_small(call), parse_first_json)


async def parsed(call: Call, data: bytes, parse: Callable[[bytes, int], object] | None = None) -> object:
    """Return the JSON value of a body; raises as `parse_json`, which parses it by default."""
    parse, depth = parse or parse_json, call.runtime.settings.limits.max_json_depth
    if len(data) <= _INLINE_BYTES:
        return parse(data, depth)
    return await call.offload(parse, data, depth)


def parse_json(data: bytes, max_depth: int) -> object:
    """Parse JSON; `InvalidInputError` if malformed or nested deeper than `max_depth`."""
    return _parsed(load_json, data, max_depth)


def parse_first_json(data: bytes, max_depth: int) -> object:
    """Parse the first JSON value, None if there are no bytes at all; raises as `parse_json`."""
    return _parsed(load_first_json, data, max_depth) if data else None


def _parsed(load: Callable[[bytes], object], data: bytes, max_depth: int) -> object:
    if not data.strip():
        raise InvalidInputError(_MALFORMED + "unexpected end of JSON input")
    try:
        value = load(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{_MALFORMED}{error}") from None
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_depth(value, max_depth)
    return value


async def receive_settings(call: Call, purpose: str) -> dict[str, object]:
    """Return a settings object, its keys in lower case; an empty body or `null` is an empty object.

    Raises
    ------
    InvalidInputError
        Not an object: `Error decoding POSTed JSON config for <purpose>: …`.
    """
    data = await receive_small(call)
    try:
        members = _object(await parsed(call, data, parse_first_json), "map[string]interface {}")
    except InvalidInputError as error:
        raise InvalidInputError(f"Error decoding POSTed JSON config for {purpose}: {error}") from None
    return {key.lower(): member for key, member in members.items()}


def struct_members(
    value: object, texts: Iterable[str] = (), lists: Iterable[str] = ()
) -> dict[str, str | list[str]]:
    """Decode an object whose member names count in any letter case.

    Parameters
    ----------
    texts, lists
        Names of the members that hold a text, or a list of texts. Others are ignored.

    Returns
    -------
    dict
        The members that are present and not null.
    """
    kinds: dict[str, type] = dict.fromkeys(texts, str) | dict.fromkeys(lists, list)
    found: dict[str, str | list[str]] = {}
    for key, member in _object(value, "struct").items():
        name = key.lower()
        if name not in kinds or member is None:
            continue
        found[name] = _text(member, name) if kinds[name] is str else _texts(member, name)
    return found


def text_member(value: object, name: str) -> str | None:
    """Return a member, None if absent, of an object all of whose values must be texts (or null)."""
    members = _object(value, "map[string]string")
    texts = {key: "" if member is None else _text(member, "") for key, member in members.items()}
    return texts.get(name)


def texts_member(value: object, name: str) -> list[str] | None:
    """Return a member, None if absent, of an object all of whose values must be lists of texts."""
    members = _object(value, "map[string][]string")
    lists = {key: [] if member is None else _texts(member, "") for key, member in members.items()}
    return lists.get(name)


def _object(value: object, wanted: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _mismatch(value, f"value of type {wanted}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(value, f"struct field .{name} of type string" if name else "value of type string")
    return value


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list):
        raise _mismatch(value, f"struct field .{name} of type []string" if name else "value of type []string")
    return ["" if item is None else _text(item, name) for item in value]


def _mismatch(value: object, wanted: str) -> InvalidInputError:
    kind = next((name for python, name in _GO_KINDS if isinstance(value, python)), "null")
    return InvalidInputError(f"{_MALFORMED}json: cannot unmarshal {kind} into Go {wanted}")


def _check_depth(value: object, limit: int) -> None:
    layer: list[object] = [value]
    for _ in range(limit):
        layer = [
            child
            for item in layer
            if isinstance(item, list | dict)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    if any(isinstance(item, list | dict) for item in layer):
        raise InvalidInputError(f"{_MALFORMED}nested deeper than {limit} levels")
