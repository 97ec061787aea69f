"""Who is admin, and which web pages may talk to the server."""

import hmac
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from dvidzarr.core.errors import ForbiddenError, InvalidInputError
from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response

if TYPE_CHECKING:
    from dvidzarr.core.settings import ServerSettings

ADMIN_TOKEN = "DVID_ADMIN_TOKEN"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_CORS_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD"})
_CORS_HEADERS = frozenset({"origin", "accept", "content-type", "x-requested-with", "authorization"})
"""What pages of listed origins may send: as in DVID, and the admin token."""
_PREFLIGHT_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


def is_loopback(host: str) -> bool:
    """Tell whether an address, or the name `localhost`, can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server.

    Attributes
    ----------
    token
        Admin token; empty if none is set.
    local
        Whether the server listens on loopback only: without a token, everybody there is admin.
    origins
        Web origins (with scheme and port) that may read answers and write; `*` allows every one.
    hosts
        Names by which the server may be called; `*` allows every one.
    anonymous_writes
        Whether who is no admin may write open versions.
    """

    token: str
    local: bool
    origins: tuple[str, ...]
    hosts: tuple[str, ...] = ("*",)
    anonymous_writes: bool = True

    @classmethod
    def of(cls, settings: "ServerSettings", host: str, token: str) -> "Access":
        """Return the rules for a server that listens on `host`.

        Raises
        ------
        InvalidInputError
            Other machines could reach it, and `anonymous` does not say what they may do.
        """
        local = is_loopback(host)
        if not local and not settings.anonymous:
            raise InvalidInputError(
                f"on {host} everybody who can reach this machine could read and write the store: say what they may do"
                " with --insecure-allow-anonymous reader|writer (setting server.anonymous)"
            )
        # a server that others can reach has names that only its administrator knows
        names = settings.hosts if local or settings.hosts else ("*",)
        hosts = tuple(name.lower() for name in names)
        return cls(token, local, settings.cors_domains, hosts, settings.anonymous != "reader")

    def is_admin(self, request: Request) -> bool:
        """Tell whether the request comes with the admin right."""
        if not self.token:
            # a page of another site in this machine's browser reaches loopback too, by a name of its own even
            trusted = self.local and self.anonymous_writes
            return trusted and not _is_foreign(request) and _names_loopback(request.headers.get("host"))
        if not request.query and "authorization" not in request.headers:
            return False
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        offered = [request.query.get("admintoken", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        matches = [hmac.compare_digest(_bytes(item), _bytes(self.token)) for item in offered if item]
        return any(matches)

    def role(self, request: Request) -> str:
        """Return what the caller may do: `reader`, `writer` (open versions) or `admin`."""
        if self.is_admin(request):
            return "admin"
        return "writer" if self.anonymous_writes else "reader"

    @property
    def administrators(self) -> str:
        """Who has the admin right, in words."""
        if self.token:
            return f"who presents the token ({ADMIN_TOKEN})"
        return "everybody on this machine" if self.local and self.anonymous_writes else "nobody"

    def headers(self, request: Request) -> dict[str, str]:
        """Return the CORS headers that every answer to this request carries."""
        if not self.origins:
            return {}
        if "*" in self.origins:
            return {"Access-Control-Allow-Origin": "*"}
        headers = {"Vary": "Origin"}
        origin = request.headers.get("origin", "")
        if self._allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
        return headers

    def preflight(self, request: Request) -> Response | None:
        """Return the answer to a CORS preflight, None if the request is none."""
        wanted = request.headers.get("access-control-request-method")
        origin = request.headers.get("origin")
        everybody = "*" in self.origins
        if (
            request.method != "OPTIONS"
            or wanted is None
            or not self.origins
            or (everybody and origin is None)
        ):
            return None
        headers = {"Vary": _PREFLIGHT_VARY}
        asked = request.headers.get("access-control-request-headers", "")
        if everybody or (origin is not None and self._allows(origin) and _may_send(wanted, asked)):
            headers["Access-Control-Allow-Origin"] = "*" if everybody else str(origin)
            headers["Access-Control-Allow-Methods"] = wanted
            if asked:
                headers["Access-Control-Allow-Headers"] = asked
        return Response(status=204, headers=headers)

    def check_origin(self, request: Request) -> None:
        """Raise `ForbiddenError` for a write that a web page of an origin not allowed sends."""
        if request.method in SAFE_METHODS or not _is_foreign(request):
            return
        origin = request.headers.get("origin", "")
        if not self._allows(origin):
            raise ForbiddenError(f"the web origin {origin!r} may not write here: see server.cors_domains")

    def check_host(self, request: Request) -> None:
        """Refuse a request that calls the server by a name it does not have.

        A web page can make a name of its own point to this machine (DNS rebinding); then the browser takes this server
        for a part of that page. Addresses cannot be used so.
        """
        name = _host_name(request.headers.get("host"))
        if name and name not in self.hosts and "*" not in self.hosts:
            raise PlainError(421, f"this server does not go by the name {name!r}: see server.hosts")

    def _allows(self, origin: str) -> bool:
        return "*" in self.origins or origin.lower() in {allowed.lower() for allowed in self.origins}


def _may_send(method: str, headers: str) -> bool:
    names = {name.strip().lower() for name in headers.split(",")} - {""}
    return method.upper() in _CORS_METHODS and names <= _CORS_HEADERS


def _is_foreign(request: Request) -> bool:
    headers = request.headers
    if headers.get("sec-fetch-site", "same-origin") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


@lru_cache(maxsize=256)
def _names_loopback(host: str | None) -> bool:
    return host is None or is_loopback(_without_port(host))


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


@lru_cache(maxsize=256)
def _host_name(host: str | None) -> str:
    """Return the name in a Host header, lower case; empty for localhost, an address or no header."""
    name = _without_port(host or "").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return ""
    try:
        ip_address(name)
    except ValueError:
        return name
    return ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
