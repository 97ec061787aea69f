"""Versions with several parents: merge, resolve, and what a merge would leave in conflict."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dvidzarr.core.errors import DvidzarrError, InvalidInputError
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.jsonbody import receive_json, struct_members
from dvidzarr.http.response import Response

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo


async def post_merge(call: Call) -> Response:
    """Create a version with several parents. The repo is that of the first parent, as in DVID."""
    members = struct_members(await receive_json(call), texts=("mergetype", "note"), lists=("parents",))
    repo, parents = _parents(call, members)
    if members.get("mergetype") != "conflict-free":
        raise InvalidInputError("'mergeType' must be 'conflict-free' at this time")
    note = str(members.get("note", ""))
    child = await call.offload(lambda: repo.merge(_same_repo(repo, parents), note=note, author=call.author))
    return responses.json_member("child", child.uuid)


async def post_resolve(call: Call) -> Response:
    """Merge versions; where instances conflict, the first parent that has the value wins."""
    members = struct_members(await receive_json(call), texts=("note",), lists=("data", "parents"))
    names = members.get("data") or ()
    if not names:
        raise InvalidInputError("Must specify at least one data instance using 'data' field")
    repo, parents = _parents(call, members)
    for name in names:
        repo.instance(name)
    note = str(members.get("note", ""))
    above = _same_repo(repo, parents)
    child = await call.offload(lambda: repo.resolve_merge(above, list(names), note, call.author))
    return responses.json_member("child", child.uuid)


async def get_conflicts(call: Call) -> Response:
    """Answer what a merge of `parents` (query, separated by commas) would leave in conflict; nothing is changed."""
    refs = [ref for ref in call.query.get("parents", "").split(",") if ref]
    repo, parents = _parents(call, {"parents": refs})
    above = _same_repo(repo, parents)
    found = await call.offload(repo.conflicts, above)
    return responses.json_value({each.instance: each.to_json() for each in found})


def _parents(call: Call, members: Mapping[str, object]) -> "tuple[Repo, list[tuple[Repo, Version]]]":
    refs = members.get("parents")
    if not isinstance(refs, list) or len(refs) < 2:
        raise InvalidInputError("Must specify at least two parent UUIDs using 'parents' field")
    found = []
    for ref in refs:
        try:
            found.append(call.runtime.catalog.resolve(ref))
        except DvidzarrError as error:
            raise type(error)(f'can\'t match parent "{ref}": {error}') from None
    return found[0][0], found


def _same_repo(repo: "Repo", parents: "list[tuple[Repo, Version]]") -> "list[Version]":
    if any(other is not repo for other, _ in parents):
        raise InvalidInputError("server-specific version id is invalid")
    return [version for _, version in parents]


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(("POST",), ("repo", "{uuid}", "merge"), post_merge, "postMerge", "write"),
    Endpoint(("POST",), ("repo", "{uuid}", "resolve"), post_resolve, "postResolve", "write"),
    Endpoint(("GET",), ("repo", "{uuid}", "conflicts"), get_conflicts, "getConflicts", "read"),
)
