"""Request targets, admin rule, CORS, route patterns, admission."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import pytest

from dvidzarr.core.errors import BusyError, ForbiddenError
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response
from dvidzarr.server.access import Access, is_loopback
from dvidzarr.server.activity import Activity
from dvidzarr.server.admission import Admission, Throttle
from dvidzarr.server.paths import clean_path, decoded_path, path_words, redirect_of

if TYPE_CHECKING:
    from dvidzarr.http.incoming import Body
    from dvidzarr.http.writer import Writer


def request(target: str = "/", method: str = "GET", **headers: str) -> Request:
    fields = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Request(method, target, fields, cast("Body", None), cast("Writer", None))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/api/a%20b?x=%2F", "/api/a b"),
        ("/api/a+b", "/api/a+b"),
        ("/api/a%2Fb", "/api/a/b"),
        ("/api/%FF", "/api/\udcff"),
        ("/api/%25FF", "/api/%FF"),
        ("http://host:1/api/x?y", "/api/x"),
        ("http://[/api/x", "/api/x"),
        ("http://host", "/"),
        ("*", "*"),
    ],
)
def test_decoded_path(target: str, path: str) -> None:
    assert decoded_path(request(target)) == path


@pytest.mark.parametrize("target", ["/api/%", "/api/%z1", "/api/%2"])
def test_broken_escape(target: str) -> None:
    with pytest.raises(PlainError, match="400"):
        decoded_path(request(target))


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/api/node/", "/api/node/"),
        ("/api//node", "/api/node"),
        ("//evil.org/x", "/evil.org/x"),
        ("/api/./a/../b", "/api/b"),
        ("/../../etc", "/etc"),
        ("/api/..", "/"),
        ("/api/.hidden", "/api/.hidden"),
        ("/api/a..b", "/api/a..b"),
    ],
)
def test_clean_path(path: str, cleaned: str) -> None:
    assert clean_path(path) == cleaned


def test_redirect_keeps_query_and_escapes() -> None:
    response = redirect_of(request("/api//a%20b/%FF?x=1"))
    assert response is not None
    assert (response.status, response.headers["Location"]) == (307, "/api/a%20b/%FF?x=1")
    assert redirect_of(request("/api/a")) is None
    assert redirect_of(request("/api/key/%2E%2e/%2F")) is None


def test_path_words() -> None:
    assert path_words("/api/node/a/b/") == ("node", "a", "b")
    assert path_words("/api") == path_words("/") == path_words("/other/x") == ()


def test_admin_token() -> None:
    access = Access("secret", local=True, origins=("*",))
    assert access.is_admin(request("/x?admintoken=secret"))
    assert access.is_admin(request("/x", Authorization="Bearer secret"))
    assert access.is_admin(request("/x", Authorization="bearer secret"))
    assert not access.is_admin(request("/x", Authorization="Basic secret"))
    assert not access.is_admin(request("/x?admintoken=Secret"))
    assert not access.is_admin(request("/x?admintoken="))
    assert not access.is_admin(request("/x"))


def test_without_token_loopback_is_admin() -> None:
    local = Access("", local=True, origins=("*",))
    assert local.is_admin(request("/x"))
    assert local.is_admin(request("/x", Host="127.0.0.1:8000", Origin="http://127.0.0.1:8000"))
    assert not local.is_admin(request("/x", Host="127.0.0.1:8000", Origin="https://evil.org"))
    assert not local.is_admin(request("/x", Origin="http://["))
    assert not local.is_admin(request("/x", Sec_Fetch_Site="cross-site"))
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert local.is_admin(request("/x", Host=host))
    for host in ("evil.org", "evil.org:8000", "127.0.0.1.evil.org", "", "[", "10.0.0.1"):
        assert not local.is_admin(request("/x", Host=host))
    assert not Access("", local=False, origins=("*",)).is_admin(request("/x?admintoken="))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("", False),
        ("127.evil.org", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_wildcard_cors() -> None:
    access = Access("", local=True, origins=("*",))
    origin = {
        "Origin": "https://a.org",
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "x-y",
    }
    assert access.headers(request("/x")) == {"Access-Control-Allow-Origin": "*"}
    answer = access.preflight(request("/x", "OPTIONS", **origin))
    assert answer is not None
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "x-y"
    assert access.preflight(request("/x", "OPTIONS")) is None
    access.check_origin(request("/x", "POST", Origin="https://a.org"))


def test_listed_origins() -> None:
    access = Access("", local=True, origins=("https://a.org",))
    assert (
        access.headers(request("/x", Origin="https://a.org"))["Access-Control-Allow-Origin"]
        == "https://a.org"
    )
    assert access.headers(request("/x", Origin="https://evil-a.org")) == {"Vary": "Origin"}
    access.check_origin(request("/x", "POST", Origin="https://a.org"))
    access.check_origin(request("/x", "POST"))
    access.check_origin(request("/x", "GET", Origin="https://b.org"))
    with pytest.raises(ForbiddenError):
        access.check_origin(request("/x", "POST", Origin="https://b.org"))
    answer = access.preflight(request("/x", "OPTIONS", Origin="null", Access_Control_Request_Method="POST"))
    assert answer is not None
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "verb", "headers", "accepted"),
    [
        ("https://a.org", "POST", "content-type, X-Requested-With", True),
        ("https://a.org", "HEAD", "Authorization", True),
        ("https://a.org", "PUT", "", False),
        ("https://a.org", "GET", "accept,x-other", False),
        ("https://b.org", "GET", "", False),
        (None, "GET", "", False),
    ],
)
def test_preflights_of_listed_origins(origin: str | None, verb: str, headers: str, *, accepted: bool) -> None:
    asked = {"Access_Control_Request_Method": verb, "Access_Control_Request_Headers": headers}
    given = asked if origin is None else {"Origin": origin, **asked}
    access = Access("", local=True, origins=("https://a.org",))
    answer = access.preflight(request("/x", "OPTIONS", **given))
    assert answer is not None
    assert (answer.status, answer.headers["Vary"].count("Access-Control-Request")) == (204, 2)
    assert ("Access-Control-Allow-Origin" in answer.headers) is accepted
    assert answer.headers.get("Access-Control-Allow-Methods") == (verb if accepted else None)


def test_no_cors() -> None:
    access = Access("", local=True, origins=())
    assert access.headers(request("/x", Origin="https://a.org")) == {}
    assert (
        access.preflight(
            request("/x", "OPTIONS", Origin="https://a.org", Access_Control_Request_Method="GET")
        )
        is None
    )


async def _handler(call: Call) -> Response:
    raise NotImplementedError


def test_patterns() -> None:
    row = Endpoint(("GET",), ("raw", "{dims}", "{format?}"), _handler, "x", "read")
    assert row.matches(("raw", "a"))
    assert row.matches(("raw", "a", "b"))
    assert not row.matches(("raw",))
    assert not row.matches(("raw", "a", "b", "c"))
    assert row.bind(("raw", "a", "b", "c")) == {"dims": "a", "format": "b"}
    assert row.bind(("raw",)) == {}


def test_admission_waits_and_gives_up() -> None:
    async def run() -> None:
        gate = Admission(100, 0.05)
        async with gate.admit(80):
            with pytest.raises(BusyError, match="80 of 100 bytes"):
                async with gate.admit(30):
                    pass
            async with gate.admit(20):
                assert gate.held == 100
        async with gate.admit(10**9):
            assert gate.held == 100
        assert gate.held == 0

    asyncio.run(run())


def test_admission_is_first_come_first_served() -> None:
    async def run() -> None:
        gate = Admission(10, 5)
        order: list[str] = []

        async def take(name: str, size: int) -> None:
            async with gate.admit(size):
                order.append(name)
                await asyncio.sleep(0.01)

        async with gate.admit(10):
            tasks = [
                asyncio.create_task(take(name, size))
                for name, size in (("big", 10), ("small", 1), ("other", 9))
            ]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["big", "other"]
        assert gate.held == 0

    asyncio.run(run())


@pytest.mark.parametrize("leaves_first", [True, False])
def test_admission_of_who_gives_up_in_the_moment_of_their_turn(*, leaves_first: bool) -> None:
    """Giving up and being let in happen in one turn of the loop, in either order."""

    async def run() -> None:
        gate = Admission(10, 5)

        async def take() -> None:
            async with gate.admit(8):
                raise AssertionError("was told to give up")

        async with AsyncExitStack() as holder:
            await holder.enter_async_context(gate.admit(8))
            waiting = asyncio.create_task(take())
            await asyncio.sleep(0)
            assert gate.waiting == 1
            if leaves_first:
                waiting.cancel()
            await holder.aclose()
            if not leaves_first:
                waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with gate.admit(10):
            assert (gate.held, gate.waiting) == (10, 0)
        assert gate.held == 0

    asyncio.run(run())


def test_throttle() -> None:
    throttle = Throttle(1)
    with (
        throttle.slot(),
        pytest.raises(PlainError) as refused,
        throttle.slot(),
    ):
        pass
    assert refused.value.status == 503
    assert refused.value.text == "Server already running 1 throttled operations (max = 1)\n"
    with throttle.slot():
        pass


def test_pings() -> None:
    activity = Activity()
    assert activity.pings_of("x") == {
        "User": "",
        "LastPing": "",
        "LastLatency": 0,
        "MinLatency": 0,
        "MaxLatency": 0,
    }
    activity.ping("b", 5)
    activity.ping("a", 1)
    activity.ping("b", 3)
    assert list(activity.pings()) == ["a", "b"]
    record = activity.pings_of("b")
    assert (record["LastLatency"], record["MinLatency"], record["MaxLatency"]) == (3, 3, 5)
