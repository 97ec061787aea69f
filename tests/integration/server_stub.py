"""A catalog of one version and one instance whose endpoints try out the frame around handlers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import httpx

from dvidzarr.core.errors import CorruptionError, NotFoundError
from dvidzarr.core.settings import Settings
from dvidzarr.http import responses
from dvidzarr.http.body import receive_at_least, receive_exact, receive_small
from dvidzarr.http.endpoint import Call, Endpoint, EndpointTable
from dvidzarr.http.pump import PIECES, pumped
from dvidzarr.http.response import Response
from dvidzarr.server.app import running

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

UUID = "0123456789abcdef0123456789abcdef"
RECEIVED: list[bytes] = []
"""What arrived at the handlers that take bodies."""
GO = threading.Event()
"""What `hold` waits for."""
PATIENCE_S = 120.0


@contextmanager
def client(catalog: "Catalog | None" = None, **settings: object) -> Iterator[httpx.Client]:
    """Serve a catalog (default a stub) in this process, and yield a client of it; `limits__x` sets `limits.x`."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    with (
        running(stub() if catalog is None else catalog, Settings.load(env={}, overrides=overrides)) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
    ):
        yield http


async def get_echo(call: Call) -> Response:
    """Answer what the call knows."""
    facts = {"path": call.path, "parts": call.parts, "words": dict(call.words), "user": call.author.user}
    return responses.json_value(facts)


async def post_exact(call: Call) -> Response:
    """Take exactly as many bytes as the path says."""
    body = await receive_exact(call, int(call.words["size"]), lambda got: f"data was {got} bytes")
    RECEIVED.append(body.tobytes())
    return responses.empty()


async def post_prefix(call: Call) -> Response:
    """Take the first bytes of a body."""
    body = await receive_at_least(call, int(call.words["size"]), "data ceased")
    RECEIVED.append(body.tobytes())
    return responses.empty()


async def post_small(call: Call) -> Response:
    """Take a small body."""
    return responses.octets(await receive_small(call, 1000))


async def get_stream(call: Call) -> Response:
    """Stream slabs, in memory that is used again as soon as it may be; fail at the one the query names, or wait for `GO`."""
    count, size = int(call.words["count"]), int(call.words["size"])
    broken = int(call.query.get("fail", "-1"))

    memory = [bytearray(size) for _ in range(PIECES)]

    def slabs() -> Iterator[memoryview]:
        if "hold" in call.query:
            GO.wait(PATIENCE_S)
        for number in range(count):
            if number == broken:
                raise CorruptionError("chunk 7 is damaged")
            memory[number % PIECES][:] = bytes([number % 256]) * size
            yield memoryview(memory[number % PIECES])

    length = None if "chunked" in call.query else count * size
    return await pumped(call, slabs(), length)


async def get_sleep(call: Call) -> Response:
    """Work for a while."""
    await call.offload(time.sleep, float(call.words["seconds"]))
    return responses.text("done")


async def get_hold(call: Call) -> Response:
    """Work until `GO` is set."""
    told = await call.offload(GO.wait, PATIENCE_S)
    return responses.text("done" if told else "nobody said go")


async def get_bug(call: Call) -> Response:
    """Fail as a programming error does."""
    raise KeyError("secret detail")


async def get_admin(call: Call) -> Response:
    """Answer admins."""
    return responses.text("welcome")


ENDPOINTS = EndpointTable(
    (
        Endpoint(("GET", "POST"), ("echo", "{a?}", "{b?}"), get_echo, "echo", "read"),
        Endpoint(("POST",), ("ask",), get_echo, "ask", "query"),
        Endpoint(("POST",), ("exact", "{size}"), post_exact, "exact", "write"),
        Endpoint(("POST",), ("prefix", "{size}"), post_prefix, "prefix", "write"),
        Endpoint(("POST",), ("small",), post_small, "small", "write"),
        Endpoint(("GET",), ("stream", "{count}", "{size}"), get_stream, "stream", "read"),
        Endpoint(("GET",), ("sleep", "{seconds}"), get_sleep, "sleep", "read"),
        Endpoint(("GET",), ("hold",), get_hold, "hold", "read"),
        Endpoint(("GET",), ("bug",), get_bug, "bug", "read"),
        Endpoint(("GET",), ("admin",), get_admin, "admin", "admin"),
    )
)


def active(url: str) -> int:
    """Return how many requests are being answered, with the one that asks."""
    return int(httpx.get(f"{url}/api/load").json()["handlers active"])


class StubCatalog:
    """As much of a catalog as the dispatcher touches."""

    url = "stub"
    repos = ()
    writing = False
    behind = False

    def __init__(self, *, locked: bool = False, versioned: bool = True, read_only: bool = False) -> None:
        self.read_only = read_only
        self.full_write = False
        self.scheduler = SimpleNamespace(busy=False)
        kind = SimpleNamespace(name="stub", endpoints=f"{__name__}:ENDPOINTS", url="u", help="h", version="1")
        self.registry = {"stub": kind}
        version = SimpleNamespace(uuid=UUID, locked=locked)
        thing = SimpleNamespace(name="thing", datatype=kind, versioned=versioned, current=True)
        dag = SimpleNamespace(root=SimpleNamespace(uuid=UUID, locked=locked))

        def instance(name: str) -> SimpleNamespace:
            if name != "thing":
                raise NotFoundError("invalid data instance name")
            return thing

        repo = SimpleNamespace(
            root=UUID, instance=instance, dag=dag, exists=True, check_instance=lambda _instance: None
        )
        self._found = (repo, version)

    def resolve(self, ref: str) -> tuple[SimpleNamespace, SimpleNamespace]:
        """Return the one repo and version."""
        if not UUID.startswith(ref):
            raise NotFoundError(f"could not find UUID with partial match to {ref}")
        return self._found


def stub(*, locked: bool = False, versioned: bool = True, read_only: bool = False) -> "Catalog":
    """Return a stub in the place of a catalog."""
    return cast("Catalog", StubCatalog(locked=locked, versioned=versioned, read_only=read_only))
