"""What a query means, pair by pair: a server takes those that Go takes."""

from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HTTPConnection, str]]:
    """Return a connection, and the path of a value "abcdef"."""
    folder = tmp_path_factory.mktemp("queries") / "store"
    with dvidzarr.open(folder) as catalog, running(catalog, Settings()) as address:
        repo = catalog.create_repo()
        repo.create_instance("keyvalue", "kv").at(repo.root)["k"] = b"abcdef"
        connection = HTTPConnection(urlsplit(address).netloc)
        yield connection, f"/api/node/{repo.root}/kv/key/k"
        connection.close()


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("byte_start=1&byte_end=2", 200, b"bc"),
        ("byte_start=1;byte_end=2", 200, b"abcdef"),  # one pair, and that is left out
        ("byte_start=1;&byte_end=2;x", 200, b"abcdef"),
        ("byte_start=%zz&byte_end=%2", 200, b"abcdef"),
        ("byte_start=%zz&byte_start=1&byte_end=2", 200, b"bc"),  # the first one that is a pair
        ("a;b=c&byte_start=1&d=%&byte_end=2", 200, b"bc"),
        ("byte_start=1&byte%5Fend=%32", 200, b"bc"),
        ("&&byte_start=1&byte_end=2&", 200, b"bc"),
        ("byte_start=1&byte_end=2%", 400, b""),  # only one bound is left
        ("byte_start=1&byte_end=%3B", 400, b""),  # a semicolon that is written as an escape is a value's own
    ],
)
def test_pairs(place: tuple[HTTPConnection, str], query: str, status: int, body: bytes) -> None:
    connection, path = place
    connection.request("GET", f"{path}?{query}")
    answer = connection.getresponse()
    found = answer.read()
    assert answer.status == status
    assert status != 200 or found == body
