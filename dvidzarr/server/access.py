"""Who is admin, and which web pages may talk to the server."""

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web

from dvidzarr.core.errors import ForbiddenError

ADMIN_TOKEN = "DVID_ADMIN_TOKEN"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
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
    """

    token: str
    local: bool
    origins: tuple[str, ...]

    def is_admin(self, request: web.BaseRequest) -> bool:
        """Tell whether the request comes with the admin right."""
        if not self.token:
            # a page of another site in this machine's browser reaches loopback too, by a name of its own even
            return self.local and not _is_foreign(request) and _names_loopback(request)
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        offered = [request.query.get("admintoken", "")]
        if scheme.lower() == "bearer":
            offered.append(bearer.strip())
        matches = [hmac.compare_digest(_bytes(item), _bytes(self.token)) for item in offered]
        return any(matches)

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the CORS headers that every answer to this request carries."""
        if not self.origins:
            return {}
        if "*" in self.origins:
            return {"Access-Control-Allow-Origin": "*"}
        headers = {"Vary": "Origin"}
        origin = request.headers.get("Origin", "")
        if self._allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
        return headers

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer to a CORS preflight, None if the request is none."""
        wanted = request.headers.get("Access-Control-Request-Method")
        origin = request.headers.get("Origin")
        if request.method != "OPTIONS" or wanted is None or origin is None or not self.origins:
            return None
        headers = {"Vary": _PREFLIGHT_VARY}
        if self._allows(origin):
            headers["Access-Control-Allow-Origin"] = "*" if "*" in self.origins else origin
            headers["Access-Control-Allow-Methods"] = wanted
            asked = request.headers.get("Access-Control-Request-Headers")
            if asked:
                headers["Access-Control-Allow-Headers"] = asked
        return web.Response(status=204, headers=headers)

    def check_origin(self, request: web.BaseRequest) -> None:
        """Raise `ForbiddenError` for a write that a web page of an origin not allowed sends."""
        if request.method in SAFE_METHODS or not _is_foreign(request):
            return
        origin = request.headers.get("Origin", "")
        if not self._allows(origin):
            raise ForbiddenError(f"the web origin {origin!r} may not write here: see server.cors_domains")

    def _allows(self, origin: str) -> bool:
        return "*" in self.origins or origin.lower() in {allowed.lower() for allowed in self.origins}


def _is_foreign(request: web.BaseRequest) -> bool:
    headers = request.headers
    if headers.get("Sec-Fetch-Site", "same-origin") in ("cross-site", "same-site"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host")


def _names_loopback(request: web.BaseRequest) -> bool:
    host = request.headers.get("Host")
    if host is None:
        return True
    return is_loopback(host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
