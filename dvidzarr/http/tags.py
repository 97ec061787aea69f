"""The tags of an instance, for the datatypes that serve them (spec-server §5.5)."""

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.body import receive_small
from dvidzarr.http.endpoint import Call
from dvidzarr.http.jsonbody import parse_first_json, parsed
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, json_value

_MALFORMED = "Malformed JSON request in tags setter: "


async def get_tags(call: Call) -> Response:
    """Answer the tags, wrapped in an object."""
    tags = await call.offload(lambda: call.instance.tags)
    return json_value({"Tags": None if tags is None else dict(sorted(tags.items()))})


async def post_tags(call: Call) -> Response:
    """Add tags, or with `replace=true` set them; an empty body changes nothing."""
    body = await receive_small(call)
    if body:
        tags = await _parsed(call, body)
        replace = call.query.get("replace") == "true"
        await call.offload(lambda: call.instance.set_tags(tags, call.author, replace=replace))
    return empty()


async def _parsed(call: Call, body: bytes) -> dict[str, str]:
    try:
        value = await parsed(call, body, parse_first_json)
    except InvalidInputError as error:
        raise InvalidInputError(f"{_MALFORMED}{error}") from None
    members = {} if value is None else value
    if not isinstance(members, dict) or not all(isinstance(tag, str | None) for tag in members.values()):
        raise InvalidInputError(f"{_MALFORMED}the body must be an object whose values are texts")
    return {name: tag or "" for name, tag in members.items()}
