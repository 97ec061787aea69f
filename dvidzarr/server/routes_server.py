"""Routes about the server itself: help, load, properties, settings."""

import logging
import os
import platform
import resource
import threading
import time
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, cast

from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.core.settings import SECTIONS
from dvidzarr.http import responses
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.jsonbody import receive_settings
from dvidzarr.http.params import parse_int
from dvidzarr.http.response import Response
from dvidzarr.repo.config import text_setting
from dvidzarr.server import help as help_pages
from dvidzarr.server.runtime import Runtime
from dvidzarr.wire.gotext import go_json

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings

LOG = logging.getLogger("dvidzarr.server")

DATASTORE_VERSION = "0.11.0"
"""DVID's datastore version whose API this server speaks; clients read it from `server/info`."""

_CACHE_STATS = {"Bytes": 0, "Items": 0, "Gets": 0, "Hits": 0, "Evictions": 0}
_GROUPCACHE_COUNTS = (
    "Gets",
    "CacheHits",
    "PeerLoads",
    "PeerErrors",
    "Loads",
    "LoadsDeduped",
    "LocalLoads",
    "LocalLoadErrs",
    "ServerRequests",
)


async def get_help(call: Call) -> Response:
    """Answer the overview of routes and datatypes."""
    page = await call.offload(help_pages.overview, tuple(call.runtime.catalog.registry))
    return responses.text(page, "text/html")


async def get_type_help(call: Call) -> Response:
    """Answer the help of a datatype."""
    name = call.words["type"]
    datatype = call.runtime.catalog.registry.get(name)
    if datatype is None:
        raise NotFoundError(f'Data type "{name}" is not supported by current DVID server')
    return responses.text(await call.offload(help_pages.type_help, datatype.help))


async def get_load(call: Call) -> Response:
    """Answer how busy the server is. Members that only DVID's Go runtime has are 0."""
    runtime = _runtime(call)
    reads, writes = runtime.activity.rates()
    load = {
        "GET requests": reads,
        "PUT requests": writes,
        "active CGo writes": 0,
        "file bytes read": 0,
        "file bytes written": 0,
        "goroutines": threading.active_count(),
        "handlers active": min(100, runtime.activity.active_everywhere),
        "key bytes read": 0,
        "key bytes written": 0,
        "pending log messages": 0,
        "value bytes read": 0,
        "value bytes written": 0,
    }
    return _pinged(call, responses.json_value(load))


async def get_heartbeat(call: Call) -> Response:
    """Answer OK."""
    return _pinged(call, responses.text("OK"))


async def get_user_latencies(call: Call) -> Response:
    """Answer how long the pings of all users, or of one, took."""
    activity = _runtime(call).activity
    user = call.query.get("u")
    return _pinged(call, responses.json_value(activity.pings_of(user) if user else activity.pings()))


async def get_info(call: Call) -> Response:
    """Answer the server's properties; all values are texts."""
    runtime = _runtime(call)
    settings = runtime.settings
    info = {
        "Cores": str(os.cpu_count() or 1),
        "DVID Version": f"dvidzarr {package_version()}",
        "Datastore Version": DATASTORE_VERSION,
        "Host": settings.server.name or platform.node(),
        "Max Open Files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "Maximum Cores": str(settings.compute.thread_count),
        "Note": settings.server.note,
        "RPC Address": "",
        "Server time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} +0000 UTC",
        "Server uptime": duration_text(time.monotonic() - runtime.activity.started),
        "Storage backend": "dvidzarr",
        "TOML location": "",
    }
    if runtime.read_only:
        info["Mode"] = "read only"
    elif runtime.catalog.full_write:
        info["Mode"] = "allow writes on committed nodes"
    return responses.json_value(dict(sorted(info.items())))


async def get_note(call: Call) -> Response:
    """Answer the configured note."""
    return responses.text(call.runtime.settings.server.note)


async def get_types(call: Call) -> Response:
    """Answer the datatypes in use."""
    used = {
        i.datatype.name: i.datatype.url
        for repo in call.runtime.catalog.repos
        for i in repo.instances.values()
    }
    return responses.json_value(dict(sorted(used.items())))


async def get_compiled_types(call: Call) -> Response:
    """Answer all datatypes this server knows."""
    registry = call.runtime.catalog.registry
    return responses.json_value({name: registry[name].url for name in sorted(registry)})


async def get_groupcache(_call: Call) -> Response:
    """Answer zeros: there is no distributed cache."""
    counts: dict[str, object] = dict.fromkeys(_GROUPCACHE_COUNTS, 0)
    return responses.json_value(counts | {"MainCache": _CACHE_STATS, "HotCache": _CACHE_STATS})


async def get_config(call: Call) -> Response:
    """Answer the settings in force, as TOML."""
    return responses.text(settings_text(call.runtime.settings))


async def get_token(_call: Call) -> Response:
    """Refuse: this server hands out no tokens."""
    raise InvalidInputError('Auth token support requires env variable "DVID_JWT_SECRET_KEY" to be set')


async def get_storage(call: Call) -> Response:
    """Write a summary of the store to the log."""
    for repo in call.runtime.catalog.repos:
        facts = {"root": repo.root, "versions": len(repo.dag.versions), "instances": sorted(repo.instances)}
        LOG.info("storage summary", extra=facts)
    return responses.text("Storage summary requested.  Check log for details.\n")


async def post_settings(call: Call) -> Response:
    """Change `gc` (kept for clients, without effect) and `throttle`."""
    given = await receive_settings(call, "'new'")
    runtime = _runtime(call)
    values = {name: _integer_setting(given, name) for name in ("gc", "throttle")}
    lines = []
    if values["gc"] is not None:
        change = f"{values['gc']} from {runtime.gc_percent}"
        lines.append(f"DVID server garbage collection target percentage set to {change}\n")
        runtime.gc_percent = values["gc"]
    if values["throttle"] is not None:
        lines.append(f"Maximum throttled ops set to {values['throttle']} from {runtime.throttle.limit}\n")
        runtime.throttle.limit = values["throttle"]
    return responses.text("".join(lines))


async def post_reload_auth(_call: Call) -> Response:
    """Answer as DVID without an authorization file."""
    return responses.text('Reloaded authorizations from file "".\n')


async def post_reload_blocklist(_call: Call) -> Response:
    """Answer as DVID without a block list."""
    return responses.text('Reloaded block list from file "".\n')


def package_version() -> str:
    """Return the version of this package."""
    try:
        return version("dvidzarr")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"


def duration_text(seconds: float) -> str:
    """Return a duration as Go prints it: `1h2m3.5s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{rest:.3f}".rstrip("0").rstrip(".") + "s"


def settings_text(settings: "Settings") -> str:
    """Return the settings as TOML; they hold no secrets (those come from the environment)."""
    lines: list[str] = []
    for name in SECTIONS:
        section = getattr(settings, name)
        lines.append(f"[{name}]")
        lines += [f"{item.name} = {_toml(getattr(section, item.name))}" for item in fields(section)]
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return go_json(value).decode()


def _integer_setting(given: dict[str, object], name: str) -> int | None:
    try:
        text = text_setting(given, name, None)
        return None if text is None else parse_int(text, 64, "Atoi")
    except InvalidInputError as error:
        raise InvalidInputError(
            f"POST on settings endpoint had bad parsing of '{name}' key: {error}"
        ) from None


def _runtime(call: Call) -> Runtime:
    return cast("Runtime", call.runtime)


def _pinged(call: Call, response: Response) -> Response:
    """Note the ping of a user."""
    if call.author.user:
        _runtime(call).activity.ping(call.author.user, int((time.monotonic() - call.started) * 1000))
    return response


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(("GET",), ("help",), get_help, "getHelp", "read"),
    Endpoint(("GET",), ("help", "{type}"), get_type_help, "getTypeHelp", "read"),
    Endpoint(("GET",), ("load",), get_load, "getLoad", "read", home=True),
    Endpoint(("GET",), ("heartbeat",), get_heartbeat, "getHeartbeat", "read", home=True),
    Endpoint(("GET",), ("user-latencies",), get_user_latencies, "getUserLatencies", "read", home=True),
    Endpoint(("GET",), ("storage",), get_storage, "getStorage", "admin"),
    Endpoint(("GET",), ("server", "info"), get_info, "getServerInfo", "read", home=True),
    Endpoint(("GET",), ("server", "note"), get_note, "getServerNote", "read"),
    Endpoint(("GET",), ("server", "types"), get_types, "getServerTypes", "read"),
    Endpoint(("GET",), ("server", "compiled-types"), get_compiled_types, "getCompiledTypes", "read"),
    Endpoint(("GET",), ("server", "groupcache"), get_groupcache, "getGroupcache", "read"),
    Endpoint(("GET",), ("server", "config"), get_config, "getServerConfig", "admin"),
    Endpoint(("GET",), ("server", "token"), get_token, "getServerToken", "read"),
    Endpoint(("POST",), ("server", "settings"), post_settings, "postServerSettings", "admin"),
    Endpoint(("POST",), ("server", "reload-auth"), post_reload_auth, "postReloadAuth", "admin"),
    Endpoint(
        ("POST",), ("server", "reload-blocklist"), post_reload_blocklist, "postReloadBlocklist", "admin"
    ),
)
