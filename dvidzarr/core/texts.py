"""Values that must be texts, and lists that must not be one text."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from dvidzarr.core.errors import InvalidInputError

T = TypeVar("T")


def check_text(value: object, what: str) -> str:
    """Return a text; raise `InvalidInputError` for anything else, `what` says what it is given for."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} is a text, not {type(value).__name__}: {str(value)[:80]}")
    return value


def check_list(values: Iterable[T], what: str) -> list[T]:
    """Return what was given as a list; raise for one text, whose characters nobody means, and for what has no items."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{what} are a list, not {type(values).__name__}: {str(values)[:80]}")
    return list(values)


def texts_by_name(values: Mapping[str, str], what: str) -> dict[str, str]:
    """Return a mapping of texts to texts; raise `InvalidInputError` for anything else."""
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{what} are a mapping, not {type(values).__name__}: {str(values)[:80]}")
    return {
        check_text(name, f"a name of {what}"): check_text(text, f"each of {what}")
        for name, text in values.items()
    }
