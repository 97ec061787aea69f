"""The configuration of a new instance as DVID's clients send it: text values, case-insensitive keys. spec-server §5.3."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.texts import check_text
from dvidzarr.wire.gotext import go_text

Default = TypeVar("Default", str, None)

RESERVED_NAMES = frozenset({"log", "branch", "note", "commit", "newversion"})
"""Words of the node API, which an instance of that name would hide."""

COMMON_SETTINGS = ("Versioned", "Compression", "Checksum", "Tags")
"""What every instance takes, whatever its type."""

_PLAIN = frozenset({"none", "snappy", "lz4", "gzip", "jpeg"})
_GZIP_LEVELS = range(1, 10)
_LEVEL = re.compile(r"[+-]?[0-9]{1,1000}")
_INT64 = range(-(1 << 63), 1 << 63)
_NAME_LIMIT = 128


@dataclass(frozen=True, slots=True)
class CommonConfig:
    """What every instance has, whatever its type."""

    versioned: bool
    compression: str
    checksum: str
    tags: dict[str, str] | None


def text_setting(config: Mapping[str, object], name: str, default: Default) -> str | Default:
    """Return a setting, which must be text: DVID's configuration reader takes nothing else, no JSON null either."""
    if name.lower() not in config:
        return default
    value = config[name.lower()]
    if not isinstance(value, str):
        raise InvalidInputError(f"Setting for '{name}' was not a string: {go_text(value)}")
    return value


def lowered(config: Mapping[str, object] | None) -> dict[str, object]:
    """Return the settings with lower-case keys; raise unless it is a mapping whose keys are texts."""
    if not isinstance(config, Mapping | None):
        raise InvalidInputError(f"settings are a mapping, not {type(config).__name__}: {str(config)[:80]}")
    return {check_text(key, "the name of a setting").lower(): value for key, value in (config or {}).items()}


def parse_common(config: Mapping[str, object]) -> CommonConfig:
    """Parse the settings of every instance; keys are lower-case.

    Raises
    ------
    InvalidInputError
        With DVID's words.
    """
    return CommonConfig(_versioned(config), _compression(config), _checksum(config), _tags(config))


def _versioned(config: Mapping[str, object]) -> bool:
    value = config.get("versioned", True)
    if isinstance(value, bool):
        return value
    text = text_setting(config, "Versioned", "")
    if text.lower() in {"true", "1"}:
        return True
    if text.lower() in {"false", "0"}:
        return False
    raise InvalidInputError(
        f"Illegal setting for 'versioned' (needs to be 'false', '0', 'true', or '1'): {text}"
    )


def _compression(config: Mapping[str, object]) -> str:
    text = text_setting(config, "Compression", "lz4")
    name, colon, level = text.lower().partition(":")
    if not colon and name in _PLAIN:
        return name
    if name == "gzip" and _LEVEL.fullmatch(level):
        return _gzip(level)
    raise InvalidInputError(f"Illegal compression specified: {text}")


def _gzip(text: str) -> str:
    """Return the setting for a level, which Go reads as an int: beyond 1 to 9 it is none at all, without a word."""
    level = int(text)
    if level not in _INT64:
        raise InvalidInputError(f"Illegal compression specified: level {level} of gzip is no 64-bit integer")
    if level == -1:
        return "gzip"
    if level == 0:
        return "none"
    return f"gzip:{level}" if level in _GZIP_LEVELS else "none:0"


def _checksum(config: Mapping[str, object]) -> str:
    text = text_setting(config, "Checksum", "none")
    if text.lower() not in {"none", "crc32"}:
        raise InvalidInputError(f"Illegal checksum specified: {text}")
    return text.lower()


def _tags(config: Mapping[str, object]) -> dict[str, str] | None:
    """Parse `k=v,k2=v2`; pieces without exactly one "=" or with an empty key are dropped, as DVID does."""
    if "tags" not in config:
        return None
    pairs = (piece.split("=") for piece in text_setting(config, "Tags", "").split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0]}


def check_name(name: str) -> str:
    """Return an instance name; raise unless it can be one."""
    if check_text(name, "the name of a data instance") in RESERVED_NAMES:
        raise InvalidInputError(f'cannot use reserved name "{name}"')
    if not name or len(name.encode("utf-8", "surrogatepass")) > _NAME_LIMIT or "/" in name or "\0" in name:
        raise InvalidInputError(
            f"{name[:80]!r} is no name of a data instance: 1 to {_NAME_LIMIT} bytes, no '/' or NUL"
        )
    return name


def log_text(config: Mapping[str, object], type_name: str, name: str) -> str:
    """Return the line that the repo log gets for a new instance, as DVID writes it."""
    items = {**config, "dataname": name, "typename": type_name}
    shown = " ".join(f"{key}:{go_text(items[key])}" for key in sorted(items))
    return f'New data instance "{name}" of type "{type_name}" with config {{map[{shown}]}}'
