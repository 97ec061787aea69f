"""Routes beside `/api/`: what operators' programs ask (alive? ready? how does it do?), and who opens the bare address.

Also what clients of DVID may ask first: which interface is spoken (spec-server §1.1).
"""

from typing import TYPE_CHECKING, cast

from dvidzarr.core.errors import StorageError
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.response import Response
from dvidzarr.server import gathering, metrics

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.server.runtime import Runtime

INTERFACE = """\
#%RAML 0.8
title: DVID HTTP API
version: v1
baseUri: /api
mediaType: application/json
documentation:
  - title: Endpoints
    content: GET /api/help lists them; GET /api/help/{type} tells those of a datatype.
"""
"""What clients may check before they talk; DVID describes its endpoints elsewhere as well."""


async def get_root(_call: Call) -> Response:
    """Send who opens the address of the server in a browser to the help."""
    return Response(status=307, headers={"Location": "/api/help"})


async def get_livez(_call: Call) -> Response:
    """Answer that the event loop turns; nothing else is looked at."""
    return responses.text("ok\n")


async def get_readyz(call: Call) -> Response:
    """Answer whether requests may be sent here: not while stopping, nor when the store cannot be read.

    Damaged repos do not count: the others are served, and a restart would not mend them. They are named.
    """
    runtime = cast("Runtime", call.runtime)
    if runtime.draining:
        return _unready("stopping")
    try:
        report = await call.offload(_look, runtime.catalog)
    except StorageError as error:
        return _unready(f"the store cannot be read: {type(error).__name__}")
    return responses.text(report)


async def get_metrics(call: Call) -> Response:
    """Answer all figures in the text format of Prometheus, of all processes of the server."""
    runtime = cast("Runtime", call.runtime)
    body = await call.offload(metrics.exposition, runtime)
    if runtime.fleet.count > 1 and call.query.get(gathering.ONLY) != "this":
        texts = {runtime.fleet.number: body} | await gathering.asked(runtime.fleet.others())
        body = await call.offload(gathering.merged, texts)
    return responses.octets(body, metrics.CONTENT_TYPE)


async def get_interface(_call: Call) -> Response:
    """Answer what interface this is, in RAML."""
    return responses.text(INTERFACE, "application/raml+yaml")


async def get_interface_version(_call: Call) -> Response:
    """Answer the version of the interface."""
    return responses.text("v1\n")


def _look(catalog: "Catalog") -> str:
    if catalog.context.backend.get("store.json") is None:
        raise StorageError("store.json is gone")
    broken = "".join(f"repo {name} is damaged and not served\n" for name in sorted(catalog.broken))
    return f"ok\n{broken}"


def _unready(why: str) -> Response:
    return Response(
        f"{why}\n".encode(),
        status=503,
        headers={"Content-Type": "text/plain; charset=utf-8", "Retry-After": "5"},
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(("GET",), ("",), get_root, "getRoot", "read"),
    Endpoint(("GET",), ("livez",), get_livez, "getLivez", "read"),
    Endpoint(("GET",), ("readyz",), get_readyz, "getReadyz", "read"),
    Endpoint(("GET",), ("metrics",), get_metrics, "getMetrics", "read"),
    Endpoint(("GET",), ("interface",), get_interface, "getInterface", "read"),
    Endpoint(("GET",), ("interface", "version"), get_interface_version, "getInterfaceVersion", "read"),
)
"""Their words start at the root of the URL space."""
