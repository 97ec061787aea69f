"""From path words to the endpoint: versions are resolved and rights checked here, once."""

from dataclasses import dataclass
from time import monotonic

from dvidzarr.core.errors import ForbiddenError, StorageError, VersionLockedError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint, Target
from dvidzarr.http.errors import PlainError, not_found
from dvidzarr.http.params import is_throttle
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response
from dvidzarr.server import (
    routes_blobs,
    routes_merges,
    routes_nodes,
    routes_probes,
    routes_repos,
    routes_server,
)
from dvidzarr.server.access import Access
from dvidzarr.server.paths import path_words
from dvidzarr.server.runtime import Runtime
from dvidzarr.server.tables import table_of

FIXED_ENDPOINTS: tuple[Endpoint, ...] = (
    *routes_server.ENDPOINTS,
    *routes_repos.ENDPOINTS,
    *routes_merges.ENDPOINTS,
    *routes_nodes.ENDPOINTS,
    *routes_blobs.ENDPOINTS,
)
"""All routes that do not depend on a datatype; their patterns start below `/api/`."""

_FIXED = {
    word: [row for row in FIXED_ENDPOINTS if row.words[0] == word]
    for word in {row.words[0] for row in FIXED_ENDPOINTS}
}

ROOT_ENDPOINTS = {"/" + "/".join(row.words): row for row in routes_probes.ENDPOINTS}
"""Routes beside `/api/` by their path."""

_MUTATING = ("POST", "PUT", "DELETE")
_SUBROUTED = ("server", "repo", "node")
_BARE = ("load", "heartbeat", "user-latencies")
_OPEN_ON_LOCKED = ("branch", "newversion", "tag")
_INSTANCE_WORDS = 4


class Dispatcher:
    """Finds and runs the endpoint of a request."""

    def __init__(self, runtime: Runtime, access: Access) -> None:
        self._runtime = runtime
        self._access = access

    async def answer(self, request: Request, path: str, headers: dict[str, str]) -> Response:
        """Answer a request whose path is decoded and clean."""
        words = path_words(path)
        facts = _Facts(request, path, headers, self._access.is_admin(request), monotonic())
        if not words:
            return await self._beside(facts)
        if words[0] not in ("repo", "node") or len(words) == 1:
            return await self._fixed(facts, words, None)
        if words[0] == "node" and len(words) < 3:
            raise not_found()
        if self._runtime.read_only and request.method not in ("GET", "HEAD"):
            # the misspelling is on DVID's wire
            raise ForbiddenError("Server in read-only mode and will only accept GET and HEAD requestcs")
        await self._catch_up()
        repo, version = self._runtime.catalog.resolve(words[1])
        if words[0] == "node" and len(words) >= _INSTANCE_WORDS:
            return await self._instance(facts, words[2:], Target(repo, version))
        if not (facts.is_admin and self._runtime.catalog.full_write):
            self._check_node_lock(request.method, words, Target(repo, version))
        return await self._fixed(facts, words, Target(repo, version))

    async def _beside(self, facts: "_Facts") -> Response:
        if facts.request.method == "OPTIONS":
            return _allow({"GET", "HEAD"})
        row = ROOT_ENDPOINTS.get(facts.path)
        if row is None or facts.request.method not in ("GET", "HEAD"):
            raise not_found()
        return await self._run(row, self._call(facts, row.words, row, None))

    async def _fixed(self, facts: "_Facts", words: tuple[str, ...], target: Target | None) -> Response:
        rows = [row for row in _FIXED.get(words[0], ()) if row.matches(words)]
        method = facts.request.method
        if method == "OPTIONS":
            return _options(words, rows)
        wanted = "GET" if method == "HEAD" else method
        row = next((row for row in rows if method in row.methods or wanted in row.methods), None)
        if row is None:
            raise not_found()
        return await self._run(row, self._call(facts, words, row, target))

    async def _instance(self, facts: "_Facts", words: tuple[str, ...], target: Target) -> Response:
        instance = target.repo.instance(words[0])
        if not instance.current:
            await self._runtime.offload(instance.catch_up)
        # unversioned data lies at the root, whichever version is named
        version = target.version if instance.versioned else target.repo.dag.root
        parts = words[1:]
        table = table_of(instance.datatype)
        method = facts.request.method
        blobs = parts[0] == routes_blobs.KEYWORD  # every type has them, and no lock concerns them
        row = routes_blobs.blob_endpoint(method) if blobs else table.find(method, parts[0])
        call = self._call(facts, parts, row, Target(target.repo, version, instance, target.version))
        if (
            instance.versioned
            and version.locked
            and not blobs
            and method in _MUTATING
            and (row is None or row.effect != "query")
            and not call.overrules
        ):
            raise VersionLockedError(
                f'Cannot do {method} on endpoint "{parts[0]}" of locked node {version.uuid}'
            )
        if row is None:
            raise table.refuse(call, parts[0])
        return await self._run(row, call)

    async def _run(self, row: Endpoint, call: Call) -> Response:
        if row.effect == "admin" and not call.is_admin:
            path = call.path
            raise ForbiddenError(f"{call.method} {path} requires admin privileges (admintoken or DSG admin)")
        if row.effect == "write" and not (call.is_admin or self._access.anonymous_writes):
            raise PlainError(
                403, "without the admin token this server may only be read: see server.anonymous"
            )
        call.request.operation = row.operation
        home = self._runtime.fleet.home
        if home is not None and _belongs_home(row, call):
            call.request.moves_home = row.effect == "write"
            return await home.forward(call)
        try:
            return await row.handler(call)
        except StorageError:
            await self._check_target(call)
            raise

    async def _catch_up(self) -> None:
        """See what the writing process did, without holding up the event loop."""
        if self._runtime.catalog.behind:
            await self._runtime.offload(self._runtime.catalog.refresh)

    async def _check_target(self, call: Call) -> None:
        """Raise `NotFoundError` if what could not be read was deleted meanwhile."""
        if call.target is not None:
            await self._catch_up()
            call.target.check()

    def _check_node_lock(self, method: str, words: tuple[str, ...], target: Target) -> None:
        if words[0] != "node" or not target.version.locked or method in ("GET", "HEAD", "OPTIONS"):
            return
        if words[2] not in _OPEN_ON_LOCKED:
            raise VersionLockedError(f"Cannot do {method.lower()} on locked node {target.version.uuid}")

    def _call(
        self, facts: "_Facts", parts: tuple[str, ...], row: Endpoint | None, target: Target | None
    ) -> Call:
        query = facts.request.query
        call = Call(
            request=facts.request,
            runtime=self._runtime,
            path=facts.path,
            parts=parts,
            words=row.bind(parts) if row else {},
            query=query,
            author=Author(query.get("u", ""), query.get("app", "")) if query else NO_AUTHOR,
            is_admin=facts.is_admin,
            headers=facts.headers,
            started=facts.started,
            target=target,
        )
        if self._runtime.audit is not None and facts.request.method in _MUTATING:
            facts.request.subject = (row, call)
        return call


@dataclass(slots=True, eq=False)
class _Facts:
    request: Request
    path: str
    headers: dict[str, str]
    is_admin: bool
    started: float


def _belongs_home(row: Endpoint, call: Call) -> bool:
    """Tell whether only the process that writes can answer: throttled requests are counted for the whole server there."""
    return row.home or row.effect in ("write", "admin") or is_throttle(call.query.get("throttle"))


def _options(words: tuple[str, ...], rows: list[Endpoint]) -> Response:
    methods = {method for row in rows for method in row.methods}
    if words[0] in _BARE or (not rows and words[0] in ("repo", "node")):
        raise not_found()
    if "GET" in methods or words[0] not in _SUBROUTED or not rows:
        # outside server, repo and node a catch-all GET route answers for every path
        methods |= {"GET", "HEAD"}
    return _allow(methods)


def _allow(methods: set[str]) -> Response:
    response = responses.empty()
    response.headers["Allow"] = ", ".join([*sorted(methods), "OPTIONS"])
    return response
