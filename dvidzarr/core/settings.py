"""Settings: read once at the start, frozen, and handed down. `config/default.toml` documents every key."""

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from dvidzarr.core.errors import InvalidInputError

MIB = 1 << 20
GIB = 1 << 30
ENV_PREFIX = "DVIDZARR_"
MOST_WORKERS = 256
_USUAL_WORKERS = 4  # unless more are asked for: each costs some 60 MiB, and one of them does all the writing


@dataclass(frozen=True, slots=True)
class _Section:
    """A table of the settings file: every value is checked against its field's type and bounds."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _coerced(getattr(self, item.name), type(item.default), item.name)
            least, most = item.metadata.get("minimum"), item.metadata.get("maximum")
            choices = item.metadata.get("choices")
            if least is not None and value < least:
                raise InvalidInputError(f"{item.name} is {value!r}, wanted at least {least}")
            if most is not None and value > most:
                raise InvalidInputError(f"{item.name} is {value!r}, wanted at most {most}")
            if choices is not None and value not in choices:
                raise InvalidInputError(f"{item.name} is {value!r}, wanted one of {', '.join(choices)}")
            object.__setattr__(self, item.name, value)


@dataclass(frozen=True, slots=True)
class ServerSettings(_Section):
    """Where the server listens and what it says about itself."""

    host: str = "127.0.0.1"
    port: int = field(default=8000, metadata={"minimum": 0, "maximum": 65535})
    workers: int = field(default=0, metadata={"minimum": 0, "maximum": MOST_WORKERS})
    cors_domains: tuple[str, ...] = ("*",)
    hosts: tuple[str, ...] = ()
    anonymous: str = field(default="", metadata={"choices": ("", "reader", "writer")})
    read_only: bool = False
    full_write: bool = False
    audit_log: str = ""
    stop_delay_s: float = field(default=0.0, metadata={"minimum": 0})
    note: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        if self.read_only and self.full_write:
            raise InvalidInputError("read_only and full_write exclude each other")

    @property
    def process_count(self) -> int:
        """How many processes serve, the automatic value resolved."""
        return self.workers or min(_USUAL_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class LimitSettings(_Section):
    """What one request, and all of them together, may use."""

    max_request_bytes: int = field(default=3 * GIB, metadata={"minimum": MIB})
    max_response_bytes: int = field(default=3 * GIB, metadata={"minimum": MIB})
    max_json_bytes: int = field(default=64 * MIB, metadata={"minimum": 1024})
    max_json_depth: int = field(default=64, metadata={"minimum": 4})
    max_line_bytes: int = field(default=64 * 1024, metadata={"minimum": 1024})
    max_connections: int = field(default=1024, metadata={"minimum": 1})
    max_throttled: int = field(default=1, metadata={"minimum": 0})
    bytes_in_flight: int = field(default=0, metadata={"minimum": 0})
    queue_timeout_s: float = field(default=10.0, metadata={"minimum": 0})
    header_timeout_s: float = field(default=10.0, metadata={"minimum": 0.1})
    body_timeout_s: float = field(default=30.0, metadata={"minimum": 0.1})
    body_min_rate: int = field(default=1024, metadata={"minimum": 0})
    send_timeout_s: float = field(default=60.0, metadata={"minimum": 0.1})
    idle_timeout_s: float = field(default=300.0, metadata={"minimum": 0.1})
    handler_timeout_s: float = field(default=600.0, metadata={"minimum": 0.1})

    @property
    def in_flight_budget(self) -> int:
        """Bytes that request and response bodies may hold at one time, the automatic value resolved."""
        return self.bytes_in_flight or min(2 * GIB, _physical_memory() // 4)


@dataclass(frozen=True, slots=True)
class StorageSettings(_Section):
    """When bytes are on the disk, and where caches lie."""

    durability: str = field(default="full", metadata={"choices": ("full", "fast")})
    cache_dir: str = ""
    flush_interval_s: float = field(default=5.0, metadata={"minimum": 0.01})
    rewrite_grace_s: float = field(default=60.0, metadata={"minimum": 0})
    drain_timeout_s: float = field(default=30.0, metadata={"minimum": 0})


@dataclass(frozen=True, slots=True)
class CacheSettings(_Section):
    """What is kept in memory to answer faster."""

    chunk_cache_mb: int = field(default=256, metadata={"minimum": 0})
    lineages: int = field(default=64, metadata={"minimum": 1})

    @property
    def chunk_bytes(self) -> int:
        """Size of the cache of chunks in bytes."""
        return self.chunk_cache_mb * MIB


@dataclass(frozen=True, slots=True)
class ComputeSettings(_Section):
    """How reads and writes of many chunks are spread."""

    threads: int = field(default=0, metadata={"minimum": 0})

    @property
    def thread_count(self) -> int:
        """Threads of the pool, the automatic value (one per core) resolved."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class EventSettings(_Section):
    """Where the events of a served store are written to."""

    json_lines: str = ""


@dataclass(frozen=True, slots=True)
class KafkaSettings(_Section):
    """Where the events of a served store are published, and under which topics."""

    servers: tuple[str, ...] = ()
    topic_activity: str = ""
    topic_prefix: str = ""
    topic_suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `Settings()` is the defaults; `Settings.load` reads file, environment and overrides.

    `sources` says for each key that is not the default where its value came from (for `config show`).
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    events: EventSettings = field(default_factory=EventSettings)
    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> "Settings":
        """Read the settings; later layers win: defaults, file, environment, texts, overrides.

        Parameters
        ----------
        file
            TOML file with the tables and keys of `config/default.toml`.
        env
            Environment, default the process's. `DVIDZARR_SERVER_PORT=8001` sets `server.port`;
            items of lists are separated by commas.
        overrides
            Values by dotted key, such as `{"server.port": 8001}`; None means not given.
        texts
            Values by dotted key as the environment has them, from a command line: `{"server.port": "8001"}`.

        Raises
        ------
        InvalidInputError
            An unknown key, or a value of the wrong type or out of bounds; the message names key and place.
        """
        settings = cls()
        if file is not None:
            settings = settings._with(_from_file(file), str(file))
        environment = _from_environment(os.environ if env is None else env)
        settings = settings._with(environment, "environment", textual=True)
        settings = settings._with(texts or {}, "command line", textual=True)
        given = {key: value for key, value in (overrides or {}).items() if value is not None}
        return settings._with(given, "override")

    def items(self) -> Iterator[tuple[str, object, str]]:
        """Iterate over (dotted key, value, where it came from) in the order of the documentation."""
        for section in SECTIONS:
            table = getattr(self, section)
            for item in fields(table):
                key = f"{section}.{item.name}"
                yield key, getattr(table, item.name), self.sources.get(key, "default")

    def _with(self, values: Mapping[str, object], source: str, *, textual: bool = False) -> "Settings":
        """Return settings with other values; `textual` ones are parsed. `source` says where they come from."""
        tables = {section: getattr(self, section) for section in SECTIONS}
        for key, value in values.items():
            section, _, name = key.partition(".")
            if section not in tables or name not in _names(section):
                raise InvalidInputError(f"unknown setting {key} ({source})")
            current = {item: getattr(tables[section], item) for item in _names(section)}
            try:
                parsed = _parsed(value, current[name]) if textual else value
                tables[section] = type(tables[section])(**current | {name: parsed})
            except InvalidInputError as error:
                raise InvalidInputError(f"setting {key} ({source}): {error}") from None
        return Settings(**tables, sources={**self.sources, **dict.fromkeys(values, source)})


SECTIONS = {
    "server": ServerSettings,
    "limits": LimitSettings,
    "storage": StorageSettings,
    "cache": CacheSettings,
    "compute": ComputeSettings,
    "events": EventSettings,
    "kafka": KafkaSettings,
}


def _names(section: str) -> tuple[str, ...]:
    return tuple(item.name for item in fields(SECTIONS[section]))


def _from_file(file: Path) -> dict[str, object]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read the settings file {file}: {error}") from error
    values: dict[str, object] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidInputError(f"unknown setting {section} ({file}): settings belong into a table")
        values |= {f"{section}.{name}": value for name, value in table.items()}
    return values


def _from_environment(env: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for variable, text in env.items():
        if variable.startswith(ENV_PREFIX):
            section, _, name = variable.removeprefix(ENV_PREFIX).lower().partition("_")
            if section not in SECTIONS or name not in _names(section):
                raise InvalidInputError(f"unknown setting {variable} (environment)")
            values[f"{section}.{name}"] = text
    return values


def _parsed(text: object, current: object) -> object:
    """Turn the text of an environment variable into the kind of value the setting has."""
    if isinstance(current, tuple):
        return tuple(part.strip() for part in str(text).split(",") if part.strip())
    if isinstance(current, str):
        return text
    if isinstance(current, bool):
        return _TRUTH.get(str(text).strip().lower(), text)
    try:
        return type(current)(str(text))  # type: ignore[call-arg]
    except ValueError:
        raise InvalidInputError(f"{text!r} is not a number") from None


def _coerced(value: object, kind: type, name: str) -> object:
    """Return a value as the setting's type; TOML may say 5 for 5.0, and has lists."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidInputError(f"{name} is {value!r}, wanted {_KINDS[kind]}")
    return value


_KINDS = {
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
    bool: "true or false",
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 8 * GIB
