"""keyvalue over HTTP: the table of its endpoints, listings, tags and the mutation record."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvidzarr.core.errors import DvidzarrError, InvalidInputError
from dvidzarr.datatypes.keyvalue.formats import json_texts
from dvidzarr.datatypes.keyvalue.http_key import delete_key, get_key, head_key, keyvalue_view, post_key
from dvidzarr.datatypes.keyvalue.http_many import ends, get_range_values, get_values, post_values
from dvidzarr.datatypes.keyvalue.mutations import encoded_by_version
from dvidzarr.http.endpoint import Call, Endpoint, EndpointTable
from dvidzarr.http.instancehelp import get_help
from dvidzarr.http.params import is_throttle
from dvidzarr.http.pump import gathered
from dvidzarr.http.repojson import instance_json
from dvidzarr.http.response import Response
from dvidzarr.http.responses import json_value, octets
from dvidzarr.http.tags import get_tags, post_tags

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version

_JSON = "application/json"
_SNIFFED = "text/plain; charset=utf-8"
"""What DVID's server makes of JSON whose type it was not told."""


async def get_info(call: Call) -> Response:
    """Answer info."""
    view = await keyvalue_view(call)
    return json_value(instance_json(view.instance, view.version))


async def get_keys(call: Call) -> Response:
    """Answer all keys."""
    view = await keyvalue_view(call)
    return octets(await call.offload(lambda: json_texts(view.listed())), _JSON)


async def get_range(call: Call) -> Response:
    """Answer the keys of a range, both ends inclusive."""
    first, last = ends(call)
    view = await keyvalue_view(call)
    return octets(await call.offload(lambda: json_texts(view.listed(first, last))), _JSON)


async def get_mutations(call: Call) -> Response:
    """Answer what was asked for at this version, in order of writing."""
    return await _mutations(call, [call.named_version])


async def get_mutations_range(call: Call) -> Response:
    """Answer what was asked for from a version up its first parents to another, the newest version first."""
    message = "expect beginning and end versions to follow 'mutations-range' endpoint"
    first, last = (call.repo.resolve(word) for word in call.require(message, "first", "last"))
    versions = call.repo.dag.versions
    chain = [last]
    while chain[-1].ordinal != first.ordinal and chain[-1].parents:
        chain.append(versions[chain[-1].parents[0]])
    return await _mutations(call, chain)


async def _mutations(call: Call, versions: "list[Version]") -> Response:
    view = await keyvalue_view(call)

    def pieces() -> Iterator[bytes]:
        yield b"["
        yield from encoded_by_version(view.instance, versions)
        yield b"]"

    with call.runtime.throttled() if is_throttle(call.query.get("throttle")) else nullcontext():
        return await gathered(call, pieces(), _SNIFFED)


_ANY_VERB = frozenset({"help", "info", "keys", "keyrange", "keyrangevalues"})
_KEY_REFUSAL = 'key endpoint does not support "{verb}" HTTP verb'
_REFUSALS = {
    "key": _KEY_REFUSAL,
    "keyvalues": _KEY_REFUSAL,
    "mutations": "only POST action allowed for /mappings endpoint",  # DVID's own words
    "mutations-range": "only GET action allowed for /mutations-range endpoint",
}


@dataclass(frozen=True, slots=True)
class KeyValueTable(EndpointTable):
    """The endpoints of keyvalue: some answer any verb like GET, `tags` any but POST."""

    def find(self, method: str, keyword: str) -> Endpoint | None:
        """Return the endpoint for a verb and keyword, None if there is none."""
        row = self.exact.get((keyword, method))
        if row is None and (keyword in _ANY_VERB or keyword == "tags"):
            return self.first[keyword]
        return row

    def refuse(self, call: Call, keyword: str) -> DvidzarrError:
        """Return the error for a verb and keyword without endpoint."""
        words = _REFUSALS.get(keyword)
        return call.bad_call() if words is None else InvalidInputError(words.format(verb=call.method.lower()))


ENDPOINTS = KeyValueTable(
    endpoints=(
        Endpoint(("GET",), ("help",), get_help, "getInstanceHelp", "read"),
        Endpoint(("GET",), ("info",), get_info, "getInstanceInfo", "read"),
        Endpoint(("GET",), ("tags",), get_tags, "getKeyvalueTags", "read"),
        Endpoint(("POST",), ("tags",), post_tags, "postKeyvalueTags", "write"),
        Endpoint(("GET",), ("keys",), get_keys, "getKeyvalueKeys", "read"),
        Endpoint(("GET",), ("keyrange", "{first?}", "{last?}"), get_range, "getKeyvalueRange", "read"),
        Endpoint(
            ("GET",),
            ("keyrangevalues", "{first?}", "{last?}"),
            get_range_values,
            "getKeyvalueRangeValues",
            "read",
        ),
        Endpoint(("GET",), ("key", "{key?}"), get_key, "getKeyvalueKey", "read"),
        Endpoint(("HEAD",), ("key", "{key?}"), head_key, "headKeyvalueKey", "read"),
        Endpoint(("POST",), ("key", "{key?}"), post_key, "postKeyvalueKey", "write"),
        Endpoint(("DELETE",), ("key", "{key?}"), delete_key, "deleteKeyvalueKey", "write"),
        Endpoint(("GET",), ("keyvalues",), get_values, "getKeyvalueValues", "read"),
        Endpoint(("POST",), ("keyvalues",), post_values, "postKeyvalueValues", "write"),
        Endpoint(("GET",), ("mutations",), get_mutations, "getKeyvalueMutations", "read"),
        Endpoint(
            ("GET",),
            ("mutations-range", "{first?}", "{last?}"),
            get_mutations_range,
            "getKeyvalueMutationsRange",
            "read",
        ),
    )
)
"""What `DataType.endpoints` of keyvalue names."""
