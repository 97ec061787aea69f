"""What web pages of other origins are told, as it leaves the server (spec-server §1.5)."""

from collections.abc import Iterator

import httpx
import pytest

from tests.integration import server_stub

LISTED = "https://a.org"
PATH = "/api/node/0123/thing/echo"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with server_stub.client(server__cors_domains=[LISTED]) as http:
        yield http


@pytest.mark.parametrize(
    ("origin", "verb", "header", "accepted"),
    [
        (LISTED, "GET", "content-type", True),
        (LISTED, "DELETE", "authorization", True),
        (LISTED, "PUT", "accept", False),
        (LISTED, "POST", "x-other", False),
        ("https://b.org", "GET", "accept", False),
    ],
)
def test_a_refused_preflight_names_no_origin(
    http: httpx.Client, origin: str, verb: str, header: str, *, accepted: bool
) -> None:
    asked = {"Access-Control-Request-Method": verb, "Access-Control-Request-Headers": header}
    answer = http.options(PATH, headers={"Origin": origin, **asked})
    allowed = {name: value for name, value in answer.headers.items() if name.startswith("access-control")}
    expected = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": verb,
        "access-control-allow-headers": header,
    }
    assert (answer.status_code, allowed) == (204, expected if accepted else {})
    assert answer.headers["Vary"].startswith("Origin")
