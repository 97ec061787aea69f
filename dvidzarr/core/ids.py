"""Identifiers: random ids, DVID version UUIDs, times."""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

_UUID = re.compile(r"[0-9a-fA-F]{32}")


def new_id() -> str:
    """Return a random 128-bit id as 32 lower-case hex digits (the form of a DVID UUID)."""
    value = secrets.randbits(128)
    value = value & ~(0xF << 76) | (4 << 76)  # RFC 4122 version 4
    value = value & ~(0x3 << 62) | (2 << 62)
    return f"{value:032x}"


def is_uuid(text: str) -> bool:
    """Tell whether a text is a DVID version UUID: exactly 32 hex digits."""
    return _UUID.fullmatch(text) is not None


def now() -> str:
    """Return the local time as RFC 3339 with microseconds and zone offset, as DVID's JSON shows times."""
    return datetime.now().astimezone().isoformat()


def now_in_seconds() -> str:
    """Return the local time as RFC 3339 in whole seconds, "Z" for UTC, as DVID's logs show times."""
    return datetime.now().astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Author:
    """Who mutates: DVID's `u` and `app` query values, kept in every log record."""

    user: str = ""
    app: str = ""


NO_AUTHOR = Author()
"""Nobody in particular."""
