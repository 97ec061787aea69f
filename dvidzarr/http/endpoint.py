"""How an endpoint is declared, and all that its handler may touch."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from dvidzarr.core.errors import DvidzarrError, InvalidInputError, NotFoundError
from dvidzarr.core.ids import Author
from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import Request
from dvidzarr.http.response import Response

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from dvidzarr.core.settings import Settings
    from dvidzarr.http.buffers import BufferPool
    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.view import View

T = TypeVar("T")
Effect = Literal["read", "query", "write", "admin"]
Handler = Callable[["Call"], Awaitable[Response]]


class Turns(Protocol):
    """What the event loop may do itself instead of on a thread."""

    def may_hold_up(self, kind: Hashable, amount: int) -> bool:
        """Tell whether the loop may do so much work of a kind now; `took` follows unless it is cancelled."""

    def took(self, kind: Hashable, amount: int, seconds: float) -> None:
        """Note how long some work took, on the loop or on a thread."""


class Runtime(Protocol):
    """What a running server lends to its handlers."""

    @property
    def catalog(self) -> "Catalog":
        """The open store."""

    @property
    def settings(self) -> "Settings":
        """Settings of this server."""

    @property
    def buffers(self) -> "BufferPool":
        """Buffers of large answers."""

    @property
    def senders(self) -> "Executor":
        """As many threads as may make answers at the same time: they send them."""

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for a thread of the pool."""

    @property
    def turns(self) -> Turns:
        """What needs no thread."""

    async def offload(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking function on the pool."""

    async def together(self, key: Hashable, function: Callable[[list[Any]], object], item: object) -> None:
        """Run a blocking function on the pool, once for all items that came while it ran before."""

    def admit(self, size: int) -> AbstractAsyncContextManager[None]:
        """Hold `size` bytes of the memory that all requests in flight may use; `BusyError` after a wait."""

    def throttled(self) -> AbstractContextManager[None]:
        """Hold one of the slots for requests with `throttle=on`; `BusyError` if none is free."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of a route table.

    Attributes
    ----------
    methods
        HTTP verbs, upper case.
    words
        Path pattern: literal words, `{name}` for a value, `{name?}` for one that may be missing. Below an
        instance only the first word (the keyword) selects the endpoint: DVID ignores surplus words, and too
        few must reach the handler, which knows the message. Everywhere else the pattern matches exactly.
    operation
        The `operationId` in the OpenAPI document.
    effect
        `write` is refused on a locked version (not to an admin in full-write mode); `admin` needs the
        admin right; `read` works on any version, but DVID refuses even `POST help` on a locked one, so
        by POST, PUT and DELETE only `query` (a read that needs a body) does.
    home
        Only the writing process can answer, although the effect is `read` (counters of the whole server). `write` and
        `admin` always go there.
    """

    methods: tuple[str, ...]
    words: tuple[str, ...]
    handler: Handler
    operation: str
    effect: Effect
    home: bool = False

    names: tuple[tuple[int, str], ...] = field(init=False, repr=False)
    """Places and names of the values."""

    def __post_init__(self) -> None:
        named = [(at, word.strip("{}?")) for at, word in enumerate(self.words) if word.startswith("{")]
        object.__setattr__(self, "names", tuple(named))

    def bind(self, parts: tuple[str, ...]) -> dict[str, str]:
        """Return the values of the named words that are present."""
        count = len(parts)
        return {name: parts[at] for at, name in self.names if at < count}

    def matches(self, parts: tuple[str, ...]) -> bool:
        """Tell whether a whole path fits this pattern."""
        required = sum(not word.endswith("?}") for word in self.words)
        if not required <= len(parts) <= len(self.words):
            return False
        pairs = zip(self.words, parts, strict=False)
        return all(word.startswith("{") or word == part for word, part in pairs)


@dataclass(frozen=True, slots=True)
class EndpointTable:
    """All endpoints of a datatype: what `DataType.endpoints` names.

    Attributes
    ----------
    endpoints
        Rows; the first whose keyword and method fit is taken.
    methods
        Verbs the datatype knows at all; any other is refused before the keyword is looked at, as DVID does.
    refusal
        Message of that refusal; `{name}` stands for the instance.
    """

    endpoints: tuple[Endpoint, ...]
    methods: tuple[str, ...] = ("GET", "POST")
    refusal: str = 'Data "{name}" can only handle GET or POST HTTP verbs'
    first: Mapping[str, Endpoint] = field(init=False, repr=False)
    """The first endpoint of each keyword."""

    exact: Mapping[tuple[str, str], Endpoint] = field(init=False, repr=False)
    """The endpoints by keyword and verb."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", {row.words[0]: row for row in reversed(self.endpoints)})
        pairs = [((row.words[0], verb), row) for row in reversed(self.endpoints) for verb in row.methods]
        object.__setattr__(self, "exact", dict(pairs))

    def find(self, method: str, keyword: str) -> Endpoint | None:
        """Return the endpoint for a verb and keyword, None if there is none."""
        return self.exact.get((keyword, method)) if method in self.methods else None

    def refuse(self, call: "Call", keyword: str) -> DvidzarrError:
        """Return the error for a verb and keyword without endpoint."""
        if call.method not in self.methods:
            return InvalidInputError(self.refusal.format(name=call.instance.name))
        verbs = dict.fromkeys(
            verb for row in self.endpoints if row.words[0] == keyword for verb in row.methods
        )
        if verbs:
            return InvalidInputError(f"{keyword} endpoint only supports {' and '.join(verbs)} HTTP verb")
        return call.bad_call()


@dataclass(slots=True, eq=False)  # not frozen: that would triple the time it takes to make one
class Call:
    """One request, resolved: all that a handler may touch. Nobody changes it.

    Attributes
    ----------
    path
        Decoded path, as DVID shows it in messages.
    parts
        Words of the path; below an instance those after its name, keyword first. One trailing slash is
        dropped.
    words
        Values of the pattern's named words; missing ones are absent.
    query
        Query values; of a repeated one, the first.
    author
        The `u` and `app` query values.
    is_admin
        Whether the caller has the admin right.
    headers
        What every answer to this request carries (CORS).
    started
        Monotonic time at which the request came.
    target
        Version and instance that the path names; read them through `repo`, `version`, `instance` and `view`.
    """

    request: Request
    runtime: Runtime
    path: str
    parts: tuple[str, ...]
    words: Mapping[str, str]
    query: Mapping[str, str]
    author: Author
    is_admin: bool
    headers: Mapping[str, str]
    started: float
    target: "Target | None" = None

    @property
    def method(self) -> str:
        """HTTP verb."""
        return self.request.method

    @property
    def repo(self) -> "Repo":
        """The repo named by the path."""
        return self._target.repo

    @property
    def version(self) -> "Version":
        """The version named by the path."""
        return self._target.version

    @property
    def named_version(self) -> "Version":
        """The version in the path, also where the data are unversioned."""
        return self._target.named or self._target.version

    @property
    def instance(self) -> "Instance":
        """The instance named by the path."""
        if self._target.instance is None:
            raise LookupError("this route names no instance")
        return self._target.instance

    @property
    def view(self) -> "View":
        """The instance at the version named by the path."""
        return self.view_at(self.version)

    def view_at(self, version: "Version") -> "View":
        """Return the instance at a version, with the caller's right to write it."""
        view = self.instance.at(version)
        view.overrule = self.is_admin
        return view

    @property
    def overrules(self) -> bool:
        """Whether the caller may write what is locked."""
        return self.is_admin and self.runtime.catalog.full_write

    def require(self, message: str, *names: str) -> tuple[str, ...]:
        """Return the values of these words; `InvalidInputError(message)` if the path is too short for one."""
        try:
            return tuple([self.words[name] for name in names])
        except KeyError:
            raise InvalidInputError(message) from None

    async def offload(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking function on the pool: the only way from a handler to the disk."""
        return await self.runtime.offload(function, *args)

    def bad_call(self) -> PlainError:
        """Return DVID's error for a keyword the datatype does not know."""
        host = self.request.headers.get("host", "localhost")
        name, kind = self.instance.name, self.instance.datatype.name
        text = f'Bad API call ({self.path}) for data "{name}".  See API help at http://{host}/api/help/{kind}'
        return PlainError(400, text)

    @property
    def _target(self) -> "Target":
        if self.target is None:
            raise LookupError("this route names no version")
        return self.target


@dataclass(slots=True, eq=False)
class Target:
    """What a path names: a version of a repo and, maybe, an instance.

    `version` is where the data lie: of unversioned data the root, and `named` the version that the path has.
    """

    repo: "Repo"
    version: "Version"
    instance: "Instance | None" = None
    named: "Version | None" = None

    def check(self) -> None:
        """Raise `NotFoundError` if it was deleted."""
        if not self.repo.exists:
            raise NotFoundError(f"could not find UUID with partial match to {self.version.uuid}")
        if self.instance is not None:
            self.repo.check_instance(self.instance)
