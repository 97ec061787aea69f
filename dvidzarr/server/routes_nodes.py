"""Routes about versions: note, log, lock, children."""

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.errors import PlainError
from dvidzarr.http.jsonbody import (
    receive_first_json,
    receive_json,
    receive_optional_json,
    struct_members,
    text_member,
)
from dvidzarr.http.response import Response
from dvidzarr.server.routes_repos import log_lines
from dvidzarr.wire.gotext import go_json


async def get_note(call: Call) -> Response:
    """Answer the version's note."""
    return responses.json_value({"note": call.version.note})


async def post_note(call: Call) -> Response:
    """Replace the version's note."""
    note = text_member(await receive_first_json(call), "note")
    if note is None:
        raise InvalidInputError("Could not find 'note' value in POSTed JSON.")
    await call.offload(
        lambda: call.repo.set_note(call.version, note, author=call.author, overrule=call.is_admin)
    )
    return responses.empty()


async def get_log(call: Call) -> Response:
    """Answer the version's log."""
    return responses.json_value({"log": list(call.version.log)})


async def post_log(call: Call) -> Response:
    """Append lines to the version's log."""
    lines = await log_lines(call)
    await call.offload(
        lambda: call.repo.append_version_log(call.version, lines, author=call.author, overrule=call.is_admin)
    )
    return responses.empty()


async def get_status(call: Call) -> Response:
    """Answer whether the version is locked."""
    return responses.json_value({"Locked": call.version.locked})


async def post_commit(call: Call) -> Response:
    """Lock the version for good; a non-empty note replaces the old one."""
    members = struct_members(await receive_json(call), texts=("note",), lists=("log",))
    note, log = str(members.get("note", "")), list(members.get("log", ()))
    version = await call.offload(
        lambda: call.repo.commit(call.version, note=note, log=log, author=call.author)
    )
    return responses.json_member("committed", version.uuid)


async def post_newversion(call: Call) -> Response:
    """Create a child on the same branch."""
    members = await _child_members(call)
    child = await call.offload(lambda: call.repo.new_version(call.version, author=call.author, **members))
    return responses.json_member("child", child.uuid)


async def post_branch(call: Call) -> Response:
    """Create a child on a new branch; on the parent's own branch this is `newversion`."""
    members = await _child_members(call, "branch")
    name = members.pop("branch", None)
    if not name or name == "master":
        raise InvalidInputError("Cannot create a master branch")
    if name == call.version.branch:
        child = await call.offload(lambda: call.repo.new_version(call.version, author=call.author, **members))
    else:
        child = await call.offload(
            lambda: call.repo.branch(call.version, name, author=call.author, **members)
        )
    return responses.json_member("child", child.uuid)


async def post_tag(call: Call) -> Response:
    """Create a locked child whose UUID is the tag."""
    members = struct_members(await receive_optional_json(call), texts=("tag", "note"))
    tag, note = str(members.get("tag", "")), str(members.get("note", ""))
    if not tag:
        raise InvalidInputError("a version tag must not be empty")
    child = await call.offload(lambda: call.repo.tag(call.version, tag, note=note, author=call.author))
    return responses.json_member("child", child.uuid)


async def _child_members(call: Call, *names: str) -> dict[str, str]:
    """Return the members of the body for a new version, the given ones and `note` and `uuid`."""
    members = struct_members(await receive_optional_json(call), texts=(*names, "note", "uuid"))
    texts = {name: str(value) for name, value in members.items() if value or name not in ("uuid",)}
    uuid = texts.get("uuid")
    if uuid and uuid in call.runtime.catalog.names:
        raise _known(call, uuid)
    return texts


def _known(call: Call, uuid: str) -> PlainError:
    """Return the refusal of a UUID that exists, as JSON: the case server/existing-uuid-refused wants it."""
    body = go_json({"error": f"UUID already exists in datastore: {uuid} ({call.path})"})
    return PlainError(400, body.decode(), "application/json")


def _node(method: str, action: str) -> tuple[tuple[str], tuple[str, str, str]]:
    return (method,), ("node", "{uuid}", action)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(*_node("GET", "note"), get_note, "getNote", "read"),
    Endpoint(*_node("POST", "note"), post_note, "postNote", "write"),
    Endpoint(*_node("GET", "log"), get_log, "getLog", "read"),
    Endpoint(*_node("POST", "log"), post_log, "postLog", "write"),
    Endpoint(*_node("GET", "status"), get_status, "getStatus", "read"),
    Endpoint(*_node("GET", "commit"), get_status, "getCommit", "read"),
    Endpoint(*_node("POST", "commit"), post_commit, "postCommit", "write"),
    # the parent must be locked: these are checked by the repo, not by the lock check
    Endpoint(*_node("POST", "newversion"), post_newversion, "postNewversion", "write"),
    Endpoint(*_node("POST", "branch"), post_branch, "postBranch", "write"),
    Endpoint(*_node("POST", "tag"), post_tag, "postTag", "write"),
)
