"""Who may do what: every route there is × (reader, writer, administrator) × the states of a version and of the server.

The rules are written down here once more, in words of their own; a route is judged by what its endpoint declares, and the
declarations are judged too. A new route is walked without anybody thinking of it.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes import BUILTIN
from dvidzarr.http.endpoint import Endpoint
from dvidzarr.server.app import running
from dvidzarr.server.dispatch import FIXED_ENDPOINTS, ROOT_ENDPOINTS
from dvidzarr.server.routes_blobs import ENDPOINTS as BLOB_ENDPOINTS
from dvidzarr.server.tables import table_of

ROLES = ("reader", "writer", "admin")
STATES = ("open", "locked", "read-only", "full-write")
TOKEN = {"admintoken": "secret"}
OPEN, LOCKED = "0a" * 16, "0b" * 16
READING_POSTS = {"postRoiPtquery"}
"""Routes that only read although a body must be posted to them. Think before you add one: readers may call it."""

REFUSALS = {
    "rights": re.compile("admin privileges|may only be read"),
    "lock": re.compile(r"\blocked node"),
    "read-only": re.compile("read-only mode|open for reading only"),
}


@dataclass(frozen=True, slots=True)
class Route:
    """A verb of an endpoint, and where it is: `beside` /api, `server`, `repo`, `node`, `instance` or `blob`."""

    level: str
    verb: str
    row: Endpoint
    prefix: str = ""

    @property
    def name(self) -> str:
        return f"{self.verb} {self.prefix}{'/'.join(self.row.words)}"

    def path(self, uuid: str) -> str:
        words = [word for word in self.row.words if not word.endswith("?}")]
        filled = [uuid if word == "{uuid}" else "x" if word.startswith("{") else word for word in words]
        start = {"beside": "/", "instance": f"/api/node/{uuid}/", "blob": f"/api/node/{uuid}/"}
        return start.get(self.level, "/api/") + self.prefix + "/".join(filled)


def routes() -> Iterator[Route]:
    for row in FIXED_ENDPOINTS:
        if row not in BLOB_ENDPOINTS:
            level = row.words[0] if row.words[0] in ("repo", "node") else "server"
            yield from (Route(level, verb, row) for verb in row.methods)
    yield from (Route("beside", verb, row) for row in ROOT_ENDPOINTS.values() for verb in row.methods)
    for name, datatype in BUILTIN.items():
        for row in table_of(datatype).endpoints:
            yield from (Route("instance", verb, row, f"{name}/") for verb in row.methods)
    for row in BLOB_ENDPOINTS:
        place = replace(row, words=row.words[3:])
        yield from (Route("blob", verb, place, "keyvalue/") for verb in row.methods)


ROUTES = tuple(dict.fromkeys(routes()))


def wanted(route: Route, role: str, state: str) -> str | None:
    """Return why a request must be refused, None if it must not."""
    changes = route.verb not in ("GET", "HEAD")
    versioned = route.level in ("repo", "node", "instance", "blob")
    if state == "read-only" and changes and versioned:
        return "read-only"
    locked_out = state == "locked" or (state == "full-write" and role != "admin")
    if locked_out and changes and _is_locked_out(route):
        return "lock"
    if role not in {"admin": ("admin",), "write": ("writer", "admin")}.get(route.row.effect, ROLES):
        return "rights"
    if locked_out and route.row.operation == "postInstance":
        return "lock"
    if state == "read-only" and route.row.operation == "postRepos":
        return "read-only"
    return None


def _is_locked_out(route: Route) -> bool:
    match route.level:
        case "node":
            return route.row.words[2] not in ("newversion", "branch", "tag")
        case "instance":
            return route.row.effect != "query"
    return False


def test_the_declared_effects_fit_the_verbs() -> None:
    assert len(ROUTES) > 100
    gets = {(route.prefix, route.row.words[0]) for route in ROUTES if route.verb == "GET"}
    for route in ROUTES:
        effect = route.row.effect
        if route.verb in ("GET", "HEAD"):
            assert effect in ("read", "admin"), route.name
        elif effect == "read":  # DVID does not look at the verb there
            assert (route.prefix, route.row.words[0]) in gets, route.name
        assert (effect == "query") == (route.row.operation in READING_POSTS), route.name
        if route.level in ("beside", "server", "repo", "node") and route.verb != "GET":
            assert effect in ("write", "admin") or route.verb == "HEAD", route.name


@contextmanager
def served(store: Path, role: str, state: str) -> Iterator[httpx.Client]:
    overrides = {"server.anonymous": "reader" if role == "reader" else "writer"}
    settings = Settings.load(env={}, overrides=overrides)
    mode = "r" if state == "read-only" else "w"
    with (
        dvidzarr.open(store, mode, settings, full_write=state == "full-write") as catalog,
        running(catalog, settings) as url,
        httpx.Client(base_url=url, timeout=120, params=TOKEN if role == "admin" else {}) as http,
    ):
        yield http


def make(store: Path) -> None:
    with dvidzarr.open(store, "w") as catalog:
        repo = catalog.create_repo(root=LOCKED)
        for name in BUILTIN:
            repo.create_instance(name, name)
        repo.commit(repo.root)
        repo.new_version(repo.root, uuid=OPEN)


def refusal(answer: httpx.Response) -> str | None:
    if answer.status_code < 400:
        return None
    return next((why for why, words in REFUSALS.items() if words.search(answer.text)), None)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("role", ROLES)
def test_every_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, state: str) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "secret")
    uuid = LOCKED if state in ("locked", "full-write") else OPEN
    with ExitStack() as stack:
        store = tmp_path / "store"
        make(store)
        http = stack.enter_context(served(store, role, state))
        wrong = {}
        for route in ROUTES:
            answer = http.request(route.verb, route.path(uuid))
            assert answer.status_code < 500, (route.name, answer.text)
            if route.verb == "HEAD":  # the reason lies in a body that HEAD does not have
                continue
            if refusal(answer) != (want := wanted(route, role, state)):
                wrong[route.name] = f"wanted {want}, got {answer.status_code} {answer.text}"
        assert wrong == {}
        assert http.get(f"/api/node/{LOCKED}/status").json() == {"Locked": True}


@pytest.mark.parametrize("state", ["open", "read-only"])
def test_head_and_options_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """HEAD goes with each GET outside the instances, OPTIONS names what there is; neither ever fails."""
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "secret")
    make(tmp_path / "store")
    with served(tmp_path / "store", "admin", state) as http:
        for route in ROUTES:
            path = route.path(OPEN)
            head, options = http.head(path), http.options(path)
            assert (head.status_code < 500, head.content) == (True, b""), route.name
            assert options.status_code < 500, route.name
            if route.level in ("instance", "blob", "beside"):
                continue
            if route.verb == "GET":
                got = http.get(path)
                assert (head.status_code, head.headers.get("content-type")) == (
                    got.status_code,
                    got.headers.get("content-type"),
                ), route.name
            if state == "open" and route.row.words[0] not in ("load", "heartbeat", "user-latencies"):
                allowed = options.headers["Allow"].split(", ")
                assert options.status_code == 200, route.name
                assert allowed[-1] == "OPTIONS", route.name
                assert allowed[:-1] == sorted(allowed[:-1]), route.name
                assert route.verb in allowed, route.name
