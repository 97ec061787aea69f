"""Routes about repos and the making, renaming and deleting of instances."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dvidzarr.core.errors import InvalidInputError, VersionLockedError
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.jsonbody import (
    receive_first_json,
    receive_json,
    receive_settings,
    struct_members,
    texts_member,
)
from dvidzarr.http.repojson import repo_json
from dvidzarr.http.response import Response
from dvidzarr.repo.config import text_setting

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog


async def get_repos_info(call: Call) -> Response:
    """Answer all repos by the UUID of their root."""
    return await call.offload(_repos_json, call.runtime.catalog)


def _repos_json(catalog: "Catalog") -> Response:
    return responses.json_value({repo.root: repo_json(repo) for repo in catalog.repos})


async def post_repos(call: Call) -> Response:
    """Create a repo."""
    given = await receive_settings(call, "new repo")
    texts = {name: _text(given, name, "repos") for name in ("alias", "description", "passcode", "root")}
    catalog, author = call.runtime.catalog, call.author

    def create() -> str:
        return catalog.create_repo(
            alias=texts["alias"] or "",
            description=texts["description"] or "",
            root=texts["root"] or None,
            passcode=texts["passcode"] or "",
            author=author,
        ).root

    return responses.json_member("root", await call.offload(create))


async def head_repo(_call: Call) -> Response:
    """Answer 200: the dispatcher has found the repo."""
    return responses.text("")


async def get_info(call: Call) -> Response:
    """Answer the repo that holds the version."""
    return responses.json_value(await call.offload(repo_json, call.repo))


async def post_info(call: Call) -> Response:
    """Replace alias and description, whichever are given; a locked root does not matter."""
    given = await receive_settings(call, "POST repo")
    alias = _text(given, "alias", "repo/info")
    description = _text(given, "description", "repo/info")
    if alias is not None or description is not None:
        await call.offload(
            lambda: call.repo.describe(alias=alias, description=description, author=call.author)
        )
    return responses.empty()


async def post_instance(call: Call) -> Response:
    """Create an instance."""
    if call.version.locked and not call.overrules:
        raise VersionLockedError(f"New data instance cannot be created on locked node {call.version.uuid}")
    given = await receive_settings(call, "'new'")
    kind = _name(given, "typename")
    name = _name(given, "dataname")
    config = {key: value for key, value in given.items() if key not in ("typename", "dataname")}
    await call.offload(
        lambda: call.repo.create_instance(
            kind, name, config, call.version, author=call.author, overrule=call.is_admin
        )
    )
    return responses.json_member("result", f"Added {name} [{kind}] to node {call.version.uuid}")


async def post_rename(call: Call) -> Response:
    """Rename an instance (an extension: DVID does this on its command line only)."""
    new = struct_members(await receive_json(call), texts=("name",)).get("name")
    if not isinstance(new, str) or not new:
        raise InvalidInputError("Could not find 'name' value in POSTed JSON.")
    await call.offload(lambda: call.repo.rename_instance(call.words["name"], new, author=call.author))
    return responses.empty()


async def delete_instance(call: Call) -> Response:
    """Delete an instance (an extension)."""
    _check_sure(call)
    await call.offload(lambda: call.repo.delete_instance(call.words["name"], author=call.author))
    return responses.empty()


async def post_delete(call: Call) -> Response:
    """Delete the repo (an extension; DVID's clients get 404 for `DELETE`: server/wrong-verbs-on-a-repo)."""
    _check_sure(call)
    passcode = call.query.get("passcode", "")
    catalog, root = call.runtime.catalog, call.repo.root
    await call.offload(lambda: catalog.delete_repo(root, passcode=passcode, author=call.author))
    return responses.empty()


async def get_log(call: Call) -> Response:
    """Answer the repo's log."""
    return responses.json_value({"log": list(call.repo.log)})


async def post_log(call: Call) -> Response:
    """Append lines to the repo's log."""
    lines = await log_lines(call)
    await call.offload(lambda: call.repo.append_log(lines, author=call.author))
    return responses.empty()


async def log_lines(call: Call) -> list[str]:
    """Return the lines of a `{"log": […]}` body; an empty body lacks them."""
    lines = texts_member(await receive_first_json(call), "log")
    if lines is None:
        raise InvalidInputError("Could not find 'log' value in POSTed JSON.")
    return lines


async def get_branch_versions(call: Call) -> Response:
    """Answer the UUIDs of a branch, leaf first, down to the root."""
    branch = call.words["branch"]
    versions = call.repo.dag.branch_versions("" if branch == "master" else branch)
    return responses.json_value([version.uuid for version in versions])


def _text(given: Mapping[str, object], name: str, endpoint: str) -> str | None:
    try:
        return text_setting(given, name, None)
    except InvalidInputError as error:
        raise InvalidInputError(f"POST on {endpoint} endpoint requires valid '{name}': {error}") from None


def _name(given: Mapping[str, object], member: str) -> str:
    value = given.get(member)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"POST on repo endpoint requires specification of valid '{member}'")
    return value


def _check_sure(call: Call) -> None:
    if call.query.get("imsure") != "true":
        raise InvalidInputError("add the query imsure=true: what is deleted cannot be brought back")


_INSTANCE = ("repo", "{uuid}", "instance", "{name}")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(("GET",), ("repos", "info"), get_repos_info, "getReposInfo", "read"),
    Endpoint(("POST",), ("repos",), post_repos, "postRepos", "admin"),
    Endpoint(("HEAD",), ("repo", "{uuid}"), head_repo, "headRepo", "read"),
    Endpoint(("GET",), ("repo", "{uuid}", "info"), get_info, "getRepoInfo", "read"),
    Endpoint(("POST",), ("repo", "{uuid}", "info"), post_info, "postRepoInfo", "write"),
    Endpoint(("POST",), ("repo", "{uuid}", "instance"), post_instance, "postInstance", "write"),
    Endpoint(("POST",), (*_INSTANCE, "rename"), post_rename, "renameInstance", "admin"),
    Endpoint(("DELETE",), _INSTANCE, delete_instance, "deleteInstance", "admin"),
    Endpoint(("POST",), ("repo", "{uuid}", "delete"), post_delete, "deleteRepo", "admin"),
    Endpoint(("GET",), ("repo", "{uuid}", "log"), get_log, "getRepoLog", "read"),
    Endpoint(("POST",), ("repo", "{uuid}", "log"), post_log, "postRepoLog", "write"),
    Endpoint(
        ("GET",),
        ("repo", "{uuid}", "branch-versions", "{branch}"),
        get_branch_versions,
        "getBranchVersions",
        "read",
    ),
)
