"""What the records of a repo log say: texts, when and by whom."""

from collections.abc import Sequence
from typing import Any

from dvidzarr.core.ids import Author, now, now_in_seconds
from dvidzarr.core.texts import check_list, check_text

_TEXTS = ("uuid", "branch", "note", "alias", "description", "passcode")


def signed(author: Author, header: dict[str, Any]) -> dict[str, Any]:
    """Return the header of a record with time and author; raise if what must be a text is none.

    Any other value would be durable, and the log could never be read again where it is taken for a text.
    """
    for name in _TEXTS:
        if name in header:
            check_text(header[name], f"{name} of a repo or a version")
    return {"t": now(), "u": author.user, "a": author.app, **header}


def stamped(lines: Sequence[str]) -> list[str]:
    """Return lines of a log, each with the time; raise unless they are a list of texts."""
    time = now_in_seconds()
    return [f"{time}  {check_text(line, 'a line of a log')}" for line in check_list(lines, "lines of a log")]
